"""A slot: one number that every place has in a merge.

A ratio says how much of something goes in: 0 in every ratio of a step keeps the step's first input. A parameter
shapes how it is done (a density, an offset). The weight of a LoRA is a slot as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One number of every place, with the values it may take and those worth searching."""

    name: str
    kind: Literal["ratio", "parameter", "lora"]
    default: float  # where nothing else is said
    low: float = 0.0  # bounds of a search that gives none
    high: float = 1.0
    least: float = -math.inf  # values outside these mean nothing
    most: float = math.inf
    description: str = ""

    def allows(self, value: float) -> bool:
        """False for NaN and infinity as well."""
        return math.isfinite(value) and self.least <= value <= self.most

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "any finite number"
        if math.isinf(self.most):
            return f"{self.least:g} or more"
        return f"{self.least:g} to {self.most:g}"
