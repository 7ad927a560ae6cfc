"""A proposal of the depth-aware sampler, and what of it is stored with the trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.search.depth.ties import SPLIT_KEY, Split
from optimizer.search.stopping import EXPECTED_KEY, Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The parameters of a trial, and what the model expected of them."""

    params: Mapping[str, float]
    expectation: Expectation | None = None  # None for several objectives, for exploration, and before there is a model
    split: Split | None = None  # the sections that are split; None unless the space has `granularity: auto`

    def attributes(self) -> dict[str, str]:
        """Return the system attributes to store with the trial, as JSON texts."""
        attributes = {}
        if self.expectation is not None:
            attributes[EXPECTED_KEY] = json.dumps([self.expectation.improvement, self.expectation.noise])
        if self.split is not None:
            attributes[SPLIT_KEY] = json.dumps(self.split)
        return attributes
