"""A slot: one number that every place has in a merge.

A ratio says how much of something goes in: 0 in every ratio of a step keeps the step's first input. A parameter
shapes how it is done (a density, an offset). The weight of a LoRA is a slot as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LARGEST = 3.4028234663852886e38  # of float32, in which merges are computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One number of every place, with the values it may take and those worth searching."""

    name: str
    kind: Literal["ratio", "parameter", "lora"]
    default: float  # where nothing else is said
    low: float = 0.0  # bounds of a search that gives none
    high: float = 1.0
    least: float = -LARGEST  # values outside these mean nothing
    most: float = LARGEST
    description: str = ""

    def allows(self, value: float) -> bool:
        """False for NaN and infinity as well."""
        return math.isfinite(value) and max(self.least, -LARGEST) <= value <= min(self.most, LARGEST)

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.least <= -LARGEST and self.most >= LARGEST:
            return "any finite number up to 3.4e38"
        if self.most >= LARGEST:
            return f"{self.least:g} or more"
        return f"{self.least:g} to {self.most:g}"
