"""Constraints of a study: between which values the mean of a scorer must stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from pydantic import Field, field_validator, model_validator

from basics.messages import unknown_name
from basics.settings import FrozenSettings
from scorers.protocol import ScorerInfo


class ConstraintSettings(FrozenSettings):
    """The least or the largest mean that a scorer may have over the suite, or both; either value itself is allowed."""

    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("min", "max", mode="before")
    @classmethod
    def _no_truth(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic would take it for 1 or 0
            msg = f"expected a number, got {str(value).lower()}: write the bound"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.min is None and self.max is None:
            msg = "expected `min`, `max` or both, and got neither: give one, or remove the constraint"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"min {self.min:g} is above max {self.max:g}, so nothing lies between them: swap them"
            raise ValueError(msg)
        return self

    def in_words(self) -> str:
        """Return it as `at least 0.8`, `at most 40` or `0.8 to 0.95`."""
        if self.min is None or self.max is None:
            return f"at most {self.max:g}" if self.min is None else f"at least {self.min:g}"
        return f"{self.min:g} to {self.max:g}"


def check_constraints(constraints: Mapping[str, ConstraintSettings], infos: Mapping[str, ScorerInfo]) -> None:
    """Refuse constraints on scorers that there are not, or that no mean of a scorer could keep or break.

    Args:
        infos: of the study's scorers, by their names.

    Raises:
        ValueError: there is one.
    """
    for name, constraint in constraints.items():
        if name not in infos:
            msg = f"constraints: there is no scorer {name[:100]!r} under `scorers`: {unknown_name(name, infos)}"
            raise ValueError(msg)
        low, high = infos[name].limits  # not its nominal range, which values may leave
        gives = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
        for title, value in (("min", constraint.min), ("max", constraint.max)):
            if value is not None and not low <= value <= high:
                msg = (
                    f"constraints: {name}: {title} {value:g} is outside of what {infos[name].label} can give, {gives}: "
                    "give a value inside"
                )
                raise ValueError(msg)
