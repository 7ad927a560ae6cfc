"""Recipe: everything needed to make one merge, as a value.

Two executors read it: the resident merge, which makes it live in the running pipeline, and the
export, which writes it to a file. Ratios follow A1111's direction: 0 is parent A, 1 is parent B.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from studies.errors import RecipeError

DtypeName = Literal["fp16", "bf16", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodInfo:
    """What a merge method needs; its arithmetic lives in optimizer/merging/methods.py."""

    name: str
    formula: str
    least_parents: int
    most_parents: int

    def slots(self, parents: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the ratios one place has when merging these parents."""
        return ("difference",) if self.name == "add_difference" else parents[1:]


METHODS: Mapping[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            name="weighted_sum",
            formula="(1-r)A + rB; a third parent is folded in after that: (1-s)((1-r)A + rB) + sC",
            least_parents=2,
            most_parents=3,
        ),
        MethodInfo(name="add_difference", formula="A + r(B - C)", least_parents=3, most_parents=3),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A checkpoint that goes into the merge, known by its content."""

    letter: str
    name: str  # file name without folder and suffix, for people
    sha256: str  # of the whole file


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One merge. Equal recipes over equal files give equal tensors, bit for bit, on one device."""

    architecture: str
    method: str
    parents: tuple[Parent, ...]
    ratios: tuple[tuple[str, tuple[float, ...]], ...]  # (place, one ratio per slot), every place once
    dtype: DtypeName | None = None  # of the merged tensors; None keeps parent A's, tensor by tensor

    def __post_init__(self) -> None:
        info = METHODS.get(self.method)
        if info is None:
            raise RecipeError(f"unknown merge method {self.method!r}: use one of {', '.join(METHODS)}")
        if not info.least_parents <= len(self.parents) <= info.most_parents:
            raise RecipeError(
                f"{self.method} takes {info.least_parents} to {info.most_parents} parents, got {len(self.parents)}"
            )
        slots = len(info.slots(tuple(parent.letter for parent in self.parents)))
        if len(self.by_place) < len(self.ratios):
            places = [place for place, _ in self.ratios]
            twice = sorted({place for place in places if places.count(place) > 1})
            raise RecipeError(f"every place has its ratios once, got {', '.join(twice)} more than once")
        for place, ratios in self.ratios:
            if not all(map(math.isfinite, ratios)):
                raise RecipeError(f"{place} has the ratios {ratios}: they must be finite numbers")
            if len(ratios) != slots:
                raise RecipeError(f"{place} has {len(ratios)} ratios, {self.method} of these parents needs {slots}")

    @property
    def by_place(self) -> dict[str, tuple[float, ...]]:
        return dict(self.ratios)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, shortest exact floats."""
        data = {
            "architecture": self.architecture,
            "method": self.method,
            "parents": [
                {"letter": parent.letter, "name": parent.name, "sha256": parent.sha256} for parent in self.parents
            ],
            "ratios": {place: list(ratios) for place, ratios in self.ratios},
            "dtype": self.dtype,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Raises RecipeError when the text is not a recipe."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(
                architecture=data["architecture"],
                method=data["method"],
                parents=tuple(Parent(**parent) for parent in data["parents"]),
                ratios=canonical_ratios({place: tuple(ratios) for place, ratios in data["ratios"].items()}),
                dtype=data["dtype"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"not a recipe: {error!r}") from error


def canonical_ratios(ratios: Mapping[str, tuple[float, ...]]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Sorted by place, plain floats: equal merges make equal recipes."""
    return tuple((place, tuple(map(float, ratios[place]))) for place in sorted(ratios))
