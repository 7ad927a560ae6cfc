"""What a sampler that explains itself proposes, and what of it is stored with the trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from optimizer.search.ties import SPLIT_KEY, Split

EXPECTED_KEY = "mergetune:expected"
"""System attribute of a trial: the JSON [improvement, noise] of its Expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the model expected of a merge, both in the objective's own unit.

    The improvement is over the incumbent, the trial of the best posterior mean. The noise is the standard deviation of
    one trial's objective about what the model can explain by its ratios; of the incumbent's where trials carry their
    own variance.
    """

    improvement: float  # expected; never below 0
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A trial's parameters and why."""

    params: Mapping[str, float]
    expectation: Expectation | None = None  # None for several objectives, explorations, and before there is a model
    split: Split | None = None  # the sections in blocks; None unless the space says `auto`

    def attributes(self) -> dict[str, str]:
        """System attributes to store with the trial."""
        found = {}
        if self.expectation is not None:
            found[EXPECTED_KEY] = json.dumps([self.expectation.improvement, self.expectation.noise])
        if self.split is not None:
            found[SPLIT_KEY] = json.dumps(self.split)
        return found


def expectations(trials: Iterable[FrozenTrial]) -> list[Expectation]:
    """Of the finished and failed trials that were proposed with one, by number."""
    rows = sorted((row for row in trials if row.state.is_finished()), key=lambda row: row.number)
    pairs = [json.loads(row.system_attrs[EXPECTED_KEY]) for row in rows if EXPECTED_KEY in row.system_attrs]
    return [Expectation(improvement=improvement, noise=noise) for improvement, noise in pairs]
