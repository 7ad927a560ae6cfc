"""What a scorer does wrong fails the trial, and the failure knows its own kind."""

from __future__ import annotations

import pytest
import torch

from optimizer.errors import UnscorableTrial
from optimizer.trial.scoring import Scoring
from scorers.protocol import ScorerInfo, SuiteImages
from scorers.registry import kinds
from studies.records.failures import FailureKind
from studies.spec.suite import SuiteSettings

(ITEM,) = SuiteSettings.model_validate({"prompts": ["a cat"], "sizes": [64]}).items()


class Raising:
    """A third party's scorer with a fault."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def info(self) -> ScorerInfo:
        return kinds()["sharpness"].info

    def score(self, images: SuiteImages) -> torch.Tensor:  # noqa: ARG002
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ZeroDivisionError("no images today"), "scorer"),
        (ValueError("the shop is out of memory cards"), "scorer"),
        (MemoryError("cannot allocate"), "out_of_memory"),
    ],
)
def test_the_kind_is_that_of_the_error_whatever_its_words(error: Exception, kind: FailureKind) -> None:
    scoring = Scoring({"own": Raising(error)})
    with pytest.raises(UnscorableTrial) as failed:
        scoring.score((ITEM,), (torch.zeros(3, 64, 64, dtype=torch.uint8),))
    assert failed.value.kind == kind
