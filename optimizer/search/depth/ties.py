"""Ties: parameters that move as one while a search with `granularity: auto` is still coarse.

Every parameter is one block's, as with `granularity: blocks`. At first all of a U-Net section in one slot are tied to
one number; text encoders, groups over several sections and numbers for the whole model stand alone. A section that is
*split* has a number for each block from then on, for good. Which sections are split is stored with every proposal.

Notation: d parameters, k free values, k <= d. E [d, k] holds a single 1 in each row: parameters = E free values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from optimizer.search.depth.features import Feature, Geometry
from search_spaces.blocks import blocks, section_of
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
Split = Mapping[str, int]  # section, as "IN" or "IN of B" -> number of the trial from which on it was in blocks

SPLIT_KEY = "mergetune:split"
"""System attribute of a trial: the sections in blocks when it was proposed, as the JSON of a Split."""
KEPT = 0.5  # share of its length that a mode keeps in a tied section, or else it has no meaning there


@dataclass(frozen=True, kw_only=True)
class Ties:
    """What may be tied in a search space."""

    geometry: Geometry
    sections: Mapping[str, tuple[tuple[int, ...], ...]]
    """Section -> its ties, each the indices of two or more parameters of equal bounds; empty without `auto`."""

    @classmethod
    def of(cls, space: SearchSpace, geometry: Geometry) -> Ties:
        """All ties of a space."""
        auto = space.auto_slots
        several = len({row.slot for row in space.parameters}) > 1
        found: dict[str, dict[tuple[float, float], list[int]]] = {}
        for index, row in enumerate(space.parameters):
            section = _section(row, space) if row.slot in auto else None
            if section is not None:
                label = f"{section} of {space.slots[row.slot].name}" if several else section
                found.setdefault(label, {}).setdefault((row.low, row.high), []).append(index)
        ties = {
            label: tuple(tuple(members) for members in by_bounds.values() if len(members) > 1)
            for label, by_bounds in found.items()
        }
        return cls(geometry=geometry, sections={label: rows for label, rows in ties.items() if rows})

    def subspace(self, split: Collection[str]) -> Subspace:
        """The merges that can be reached when these sections are split."""
        tied = [members for label, rows in self.sections.items() if label not in split for members in rows]
        first = {index: members[0] for members in tied for index in members}
        owner = [first.get(index, index) for index in range(len(self.geometry.names))]
        columns = {index: column for column, index in enumerate(dict.fromkeys(owner))}
        lift = np.zeros((len(owner), len(columns)))
        lift[np.arange(len(owner)), [columns[index] for index in owner]] = 1.0
        return Subspace(geometry=_tied(self.geometry, lift) if tied else self.geometry, lift=lift)


def _section(row: Parameter, space: SearchSpace) -> str | None:
    """The U-Net section that holds all of a parameter's places; None for what stands alone."""
    in_unet = set(blocks(space.architecture))
    if not in_unet.issuperset(row.places):
        return None
    sections = {section_of(place) for place in row.places}
    return sections.pop() if len(sections) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """Merges whose tied parameters are equal; the whole space where nothing is tied."""

    geometry: Geometry  # of the free values
    lift: Floats  # E [d, k]

    def up(self, free: Floats) -> Floats:
        """[..., k] -> [..., d]"""
        return np.asarray(free @ self.lift.T)

    def down(self, x: Floats) -> Floats:
        """[..., d] -> [..., k]: the nearest in the least-squares sense, each tie's mean."""
        return np.asarray(x @ (self.lift / self.lift.sum(axis=0)))

    def inside(self, x: Floats) -> Floats:
        """Those of x [n, d] that lie in the subspace, as free values [<= n, k]."""
        free = self.down(x)
        return np.asarray(free[np.abs(self.up(free) - x).max(axis=-1, initial=0.0) < 1e-9])


def _tied(geometry: Geometry, lift: Floats) -> Geometry:
    """The geometry of the free values: directions that a tie has no part in are left out."""
    mean = lift / lift.sum(axis=0)
    first = lift.argmax(axis=0)
    length, left = np.linalg.norm(geometry.modes, axis=1), np.linalg.norm(geometry.modes @ mean @ lift.T, axis=1)
    return replace(
        geometry,
        names=tuple(geometry.names[index] for index in first),
        low=geometry.low[first],
        high=geometry.high[first],
        features=tuple(Feature(name=row.name, weights=row.weights @ lift) for row in geometry.features),
        groups=tuple(geometry.groups[index] for index in first),
        levels=geometry.levels @ mean,
        modes=(geometry.modes @ mean)[left >= KEPT * length],
        waves=geometry.waves @ mean,
    )


# ------------------------------------------------------------------------------------- what is stored


def split_of(trial: FrozenTrial) -> dict[str, int] | None:
    """What was split when a trial was proposed; None for probes, and where nothing is ever split."""
    stored = trial.system_attrs.get(SPLIT_KEY)
    return None if stored is None else dict(json.loads(stored))


def split_before(trials: Iterable[FrozenTrial], number: float = math.inf) -> dict[str, int] | None:
    """What was split when the last trial up to `number` was proposed; a trial that is asked for anew counts itself."""
    stored = [row for row in trials if row.number <= number and SPLIT_KEY in row.system_attrs]
    return split_of(max(stored, key=lambda row: row.number)) if stored else None


def split_in_words(space: SearchSpace, split: Split) -> str:
    """Such as "IN split into blocks at trial 34; OUT searched as a whole"."""
    sections = Ties.of(space, Geometry.of(space)).sections
    parts = [f"{_listed(labels)} split into blocks at trial {number}" for number, labels in _by_trial(split).items()]
    if whole := [label for label in sections if label not in split]:
        parts.append(f"{_listed(whole)} searched as a whole")
    return "; ".join(parts)


def _by_trial(split: Split) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for label, number in sorted(split.items(), key=lambda row: row[1]):
        found.setdefault(number, []).append(label)
    return found


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
