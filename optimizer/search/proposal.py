"""What a sampler that explains itself proposes, and what of it is stored with the trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.search.depth.ties import SPLIT_KEY, Split
from optimizer.search.stopping import EXPECTED_KEY, Expectation


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
