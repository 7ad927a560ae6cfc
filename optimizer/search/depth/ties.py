"""Ties: parameters that share one value while a search with `granularity: auto` is still coarse.

Each parameter belongs to one block, as with `granularity: blocks`. At first, all parameters of a U-Net section in one
slot are tied to one value. Text encoders, groups that span several sections, and numbers for the whole model are never
tied. A section that is *split* has a value for each block from then on. Which sections are split is stored with every
proposal.

Notation: d parameters, k free values, k <= d. E [d, k] has a single 1 in each row: parameters = E @ free values.
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
Split = Mapping[str, int]  # section, such as "IN" or "IN of B" -> number of the first trial that had it split

SPLIT_KEY = "mergetune:split"
"""System attribute of a trial: the sections that were split when it was proposed, as the JSON of a Split."""
MIN_LENGTH = 0.5  # a mode that loses more of its length by tying parameters is dropped


@dataclass(frozen=True, kw_only=True)
class Ties:
    """The groups of parameters that may be tied in a search space."""

    geometry: Geometry
    sections: Mapping[str, tuple[tuple[int, ...], ...]]
    """Section -> its ties: indices of two or more parameters with equal bounds. Empty without `granularity: auto`."""

    @classmethod
    def of(cls, space: SearchSpace, geometry: Geometry) -> Ties:
        """Find all ties of a space."""
        auto = space.auto_slots
        several = len({parameter.slot for parameter in space.parameters}) > 1
        members: dict[str, dict[tuple[float, float], list[int]]] = {}
        for index, parameter in enumerate(space.parameters):
            section = _section(parameter, space) if parameter.slot in auto else None
            if section is not None:
                label = f"{section} of {space.slots[parameter.slot].name}" if several else section
                members.setdefault(label, {}).setdefault((parameter.low, parameter.high), []).append(index)
        ties = {
            label: tuple(tuple(indices) for indices in by_bounds.values() if len(indices) > 1)
            for label, by_bounds in members.items()
        }
        return cls(geometry=geometry, sections={label: groups for label, groups in ties.items() if groups})

    def subspace(self, split: Collection[str]) -> Subspace:
        """Return the subspace that is searched while these sections are split and all others are tied."""
        tied = [members for label, groups in self.sections.items() if label not in split for members in groups]
        first = {index: members[0] for members in tied for index in members}
        representative = [first.get(index, index) for index in range(len(self.geometry.names))]
        columns = {index: column for column, index in enumerate(dict.fromkeys(representative))}
        embedding = np.zeros((len(representative), len(columns)))
        embedding[np.arange(len(representative)), [columns[index] for index in representative]] = 1.0
        return Subspace(geometry=_tied(self.geometry, embedding) if tied else self.geometry, embedding=embedding)


def _section(parameter: Parameter, space: SearchSpace) -> str | None:
    """Return the U-Net section that holds all places of a parameter; None if there is no such section."""
    in_unet = set(blocks(space.architecture))
    if not in_unet.issuperset(parameter.places):
        return None
    sections = {section_of(place) for place in parameter.places}
    return sections.pop() if len(sections) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """The merges whose tied parameters are equal; the whole space if nothing is tied."""

    geometry: Geometry  # of the free values
    embedding: Floats  # E [d, k]

    def embed(self, free: Floats) -> Floats:
        """Turn free values [..., k] into scaled parameters [..., d]."""
        return np.asarray(free @ self.embedding.T)

    def project(self, x: Floats) -> Floats:
        """Project scaled parameters [..., d] onto the subspace [..., k] by least squares: each tie takes its mean."""
        return np.asarray(x @ (self.embedding / self.embedding.sum(axis=0)))

    def contained(self, x: Floats) -> Floats:
        """Return those of x [n, d] that lie in the subspace, as free values [<= n, k]."""
        free = self.project(x)
        return np.asarray(free[np.abs(self.embed(free) - x).max(axis=-1, initial=0.0) < 1e-9])


def _tied(geometry: Geometry, embedding: Floats) -> Geometry:
    """Return the geometry of the free values, without the modes that tying nearly removes."""
    mean = embedding / embedding.sum(axis=0)
    first = embedding.argmax(axis=0)
    before = np.linalg.norm(geometry.modes, axis=1)
    after = np.linalg.norm(geometry.modes @ mean @ embedding.T, axis=1)
    return replace(
        geometry,
        names=tuple(geometry.names[index] for index in first),
        low=geometry.low[first],
        high=geometry.high[first],
        features=tuple(
            Feature(name=feature.name, weights=feature.weights @ embedding) for feature in geometry.features
        ),
        groups=tuple(geometry.groups[index] for index in first),
        levels=geometry.levels @ mean,
        modes=(geometry.modes @ mean)[after >= MIN_LENGTH * before],
        waves=geometry.waves @ mean,
    )


# ------------------------------------------------------------------------------------- stored splits


def split_of(trial: FrozenTrial) -> dict[str, int] | None:
    """Read the sections that were split when a trial was proposed; None for probes and spaces without `auto`."""
    stored = trial.system_attrs.get(SPLIT_KEY)
    return None if stored is None else dict(json.loads(stored))


def split_before(trials: Iterable[FrozenTrial], number: float = math.inf) -> dict[str, int] | None:
    """Read the sections that were split at the last proposal up to `number`; None if none has been stored.

    A trial that is proposed again counts its own earlier proposal.
    """
    stored = [trial for trial in trials if trial.number <= number and SPLIT_KEY in trial.system_attrs]
    return split_of(max(stored, key=lambda trial: trial.number)) if stored else None


def split_in_words(space: SearchSpace, split: Split) -> str:
    """Describe a split, such as "IN split into blocks at trial 34; OUT searched as a whole"."""
    sections = Ties.of(space, Geometry.of(space)).sections
    parts = [f"{_listed(labels)} split into blocks at trial {number}" for number, labels in _by_trial(split).items()]
    if whole := [label for label in sections if label not in split]:
        parts.append(f"{_listed(whole)} searched as a whole")
    return "; ".join(parts)


def _by_trial(split: Split) -> dict[int, list[str]]:
    by_trial: dict[int, list[str]] = {}
    for label, number in sorted(split.items(), key=lambda item: item[1]):
        by_trial.setdefault(number, []).append(label)
    return by_trial


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
