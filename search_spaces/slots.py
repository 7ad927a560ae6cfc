"""Slots: the numbers that every place has in a merge.

A ratio says how much of an input goes into the merge: with 0 in every ratio of a step, the result is the step's first
input. A parameter of the method says how the merge is done (a density, an offset). The weight of a LoRA is a slot, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

USUAL: Final[Mapping[str, tuple[float, float]]] = {"ratio": (-1.0, 2.0), "lora": (-3.0, 3.0)}  # by kind of slot
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


def beyond_usual(kind: str, value: float) -> str | None:
    """Say that a ratio or a LoRA's weight is far outside of what merges use, and what may have been meant.

    Returns:
        None for usual values, and for parameters of methods, which have limits of their own.
    """
    low, high = USUAL.get(kind, (-math.inf, math.inf))
    if low <= value <= high:
        return None
    meant = next((value / divisor for divisor in _divisors(value) if low <= value / divisor <= high), None)
    return f"far beyond {low:g} to {high:g}" + ("" if meant is None else f": did you mean {meant:g}?")


def _divisors(value: float) -> tuple[int, ...]:
    """Return by which factors a slip may be too large: percent, or a lost decimal point."""
    return (10, 100) if abs(value) < 10 else (100,)
