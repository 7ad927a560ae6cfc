"""The kind of a failure is read off the reason that the database has."""

from __future__ import annotations

import pytest

from studies.records.failures import FailureKind, failure_kind

REASONS: dict[str, FailureKind] = {
    "degenerate: 3 of 8 images are broken: item 0 (black)": "degenerate",
    "out of memory: DefaultCPUAllocator: can't allocate memory": "out_of_memory",
    "out of memory denoising a single image of 512x512: CUDA out of memory": "out_of_memory",
    "out of memory in scorer clip: CUDA out of memory": "out_of_memory",
    "scorer clip failed at item 0: ZeroDivisionError: no images today": "scorer",
    "scorer clip returned a value that is not finite": "scorer",
    "4 workers died while they worked on it: look for what killed them (out of memory?)": "worker_died",
    "ended by another program: FAIL for Optuna while its worker was dead": "other",
}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_that_is_stored_has_its_kind(reason: str) -> None:
    assert failure_kind(reason) == REASONS[reason]


def test_without_a_reason_it_is_another_one() -> None:
    assert failure_kind(None) == "other"
