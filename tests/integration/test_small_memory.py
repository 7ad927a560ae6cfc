"""A device that cannot take a whole batch: smaller ones, said once, kept for the study, and the same pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_study import Recorder, ShortStudy, begin, reopen, short_spec
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from optimizer.delivery import Watch, deliver
from optimizer.failures import failure_kind
from optimizer.rendering.batch_limits import BatchLimits
from optimizer.rendering.render import Renderer
from optimizer.setup import BATCHES_FIELD, device_kind
from optimizer.worker import Worker
from scorers.memory import lacks_memory
from studies import results
from studies.batch_limits import load_batch_limits, store_batch_limit

SMALL: dict[str, Any] = {
    "budget": {"trials": 3},
    "probes": {"profiles": 0},
    "scorers": {"clip_score": short_spec()["scorers"]["clip_score"]},
    "objective": {"clip_score": None},
    "final": {"top": 0},
}
GUIDED = 2  # the U-Net sees every image with and without its prompt
CPU = torch.device("cpu")


def quiet(_done: int) -> None: ...


@contextmanager
def room_for(images: int, short: ShortStudy) -> Iterator[list[int]]:
    """The live U-Net on a device whose memory takes so many images; yields the sizes of all batches it is given."""
    seen: list[int] = []

    def check(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(len(arguments[0]) // GUIDED)
        if seen[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    handle = short.machine.evaluator.renderer.models.unet.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def size_of(short: ShortStudy) -> tuple[int, int]:
    first = short.machine.evaluator.renderer.items[0]
    return first.width, first.height


def test_smaller_batches_said_once_kept_for_the_study_and_the_same_pictures(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    renderer, size = short.machine.evaluator.renderer, size_of(short)
    with torch.inference_mode():
        expected = Renderer(renderer.models, renderer.suite, batch_size=2).render()
        usual = renderer.render()
    with room_for(3, short) as seen:
        recorder = short.run(stop_after=1)
        assert sorted(set(seen), reverse=True) == [8, 4, 2]
        assert recorder.reduced == [(4, "CUDA out of memory. Tried to allocate 2.00 GiB."), (2, recorder.reduced[0][1])]
        with torch.inference_mode():
            assert [row.sum() for row in renderer.render().pixels] == [row.sum() for row in expected.pixels]
        seen.clear()
        assert short.run(stop_after=1).reduced == []
        assert set(seen) == {2}
    assert_close(expected.pixels, usual.pixels, atol=1e-4, rtol=1e-4)
    rows = results.load_trials(short.database, short.study)
    assert [(row.state, row.rendered) for row in rows] == [("complete", 8)] * 2
    assert rows[0].machine[BATCHES_FIELD] == f"{size[0]}x{size[1]} 2"
    assert load_batch_limits(short.database, short.study, device_kind(CPU)) == {size: 2}
    assert load_batch_limits(short.database, short.study, "another card, 8 GB") == {}
    short.database.close()

    again = reopen(tmp_path)  # another process, later
    with room_for(3, again) as seen:
        assert again.run().reduced == []
        assert set(seen) == {2}
    target = tmp_path / "merge.safetensors"
    proof = deliver(
        again.database,
        again.study,
        rows[0],
        again.machine.plan,
        again.artifacts,
        target,
        overwrite=False,
        watch=Watch(written=quiet, rendered=quiet),
    ).proof
    assert "all 8 renders of the file are identical, to the bit, to those that were scored" in proof
    again.database.close()


def test_only_when_a_single_image_is_too_much_the_trial_fails(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    with room_for(0, short):
        recorder = Recorder(stop_after=1)
        Worker(short.database, short.study, short.machine, short.artifacts, recorder, recorder.stop).run()
    assert [most for most, _ in recorder.reduced] == [4, 2, 1]
    (row,) = results.load_trials(short.database, short.study)
    width, height = size_of(short)
    assert row.state == "failed"
    assert row.reason == (
        f"out of memory with a single image of {width}x{height}: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    store_batch_limit(short.database, short.study, "card", (64, 64), 4)
    store_batch_limit(short.database, short.study, "card", (64, 64), 2)
    store_batch_limit(short.database, short.study, "card", (64, 64), 3)  # a worker that knew less
    assert load_batch_limits(short.database, short.study, "card") == {(64, 64): 2}
    short.database.close()


def test_a_merge_without_memory_fails_its_trial_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where torch says it in another way, too."""
    short = begin(tmp_path, SMALL)
    resident = short.machine.evaluator.resident
    merge, calls = resident.merge, itertools.count()
    monkeypatch.setattr(resident, "merge", lambda recipe: torch.empty(1 << 50) if not next(calls) else merge(recipe))
    recorder = Recorder(stop_after=2)
    Worker(short.database, short.study, short.machine, short.artifacts, recorder, recorder.stop).run()
    first, second = results.load_trials(short.database, short.study)
    assert (first.state, failure_kind(first.reason), second.state) == ("failed", "out_of_memory", "complete")
    short.database.close()


def test_want_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 50)
    assert lacks_memory(found.value)
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not lacks_memory(RuntimeError("The size of tensor a (3) must match"))
    assert not lacks_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.2 MB, max allowed: 18.1 GB).",
        "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8",
    ],
)
def test_libraries_have_their_own_words_for_it(message: str) -> None:
    assert lacks_memory(RuntimeError(message))
    assert not lacks_memory(KeyError(message))


@given(st.dictionaries(st.tuples(st.integers(64, 4096), st.integers(64, 4096)), st.integers(1, 64)))
def test_limits_are_read_back_from_their_text(most: dict[tuple[int, int], int]) -> None:
    assert BatchLimits.parse(str(BatchLimits(most))).most == most
