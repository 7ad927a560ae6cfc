"""Slots: the numbers that every place has in a merge.

A ratio says how much of an input goes into the merge: with 0 in every ratio of a step, the result is the step's first
input. A parameter of the method says how the merge is done (a density, an offset). The weight of a LoRA is a slot, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LARGEST = 3.4028234663852886e38  # largest float32; merges are computed in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One number of every place, with its allowed values and its default bounds."""

    name: str
    kind: Literal["ratio", "parameter", "lora"]
    default: float
    low: float = 0.0  # bounds of a search whose settings give none
    high: float = 1.0
    least: float = -LARGEST  # smallest allowed value
    most: float = LARGEST  # largest allowed value
    description: str = ""

    def allows(self, value: float) -> bool:
        """Return whether a value is finite and within the allowed range."""
        return math.isfinite(value) and max(self.least, -LARGEST) <= value <= min(self.most, LARGEST)

    @property
    def allowed(self) -> str:
        """The allowed values, for messages."""
        if self.least <= -LARGEST and self.most >= LARGEST:
            return "any finite number up to 3.4e38"
        if self.most >= LARGEST:
            return f"{self.least:g} or more"
        return f"{self.least:g} to {self.most:g}"
