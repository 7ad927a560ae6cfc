"""What the depth-aware sampler knows of a search space before it has seen a single merge.

Notation: d parameters, scaled to 0..1 by their bounds; f depth features, linear in them; k smooth modes.

Blocks next to each other do similar work, so a few numbers describe most of a profile of ratios: its level, slope and
bend in the input blocks, the same in the output blocks, and the values of the middle block and the text encoders. These
are the *depth features* of each slot. Their transposes are the *modes*, directions in which a whole section moves
smoothly. Candidates are made of modes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.blocks import VAE, Architecture, blocks, places, section_of, sections
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
SHAPES = ("level", "slope", "bend")  # Legendre polynomials of degree 0, 1, 2 over a section's depth
INDEPENDENT = 1e-6  # a feature that others give but for this share of its length adds nothing
PLAIN_DIMENSIONS = 8  # with no more parameters than this, each has a length scale of its own


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One linear function of the scaled parameters."""

    name: str  # such as "IN slope of B"
    weights: Floats  # [d]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A search space as the sampler sees it."""

    names: tuple[str, ...]  # of the parameters
    low: Floats  # [d]
    high: Floats  # [d]
    features: tuple[Feature, ...]  # none where they would say no less and no more than the parameters themselves
    groups: tuple[int, ...]  # which length scale each parameter has [d]
    group_names: tuple[str, ...]
    levels: Floats  # [s, d]: each section of each slot moved as a whole
    modes: Floats  # [k, d]: levels, slopes and bends of each section, largest entry 1
    waves: Floats  # [3, d]: a constant, half and whole cosine wave over the U-Net's whole depth

    @property
    def weights(self) -> Floats:
        """All features' weights [f, d]."""
        return np.array([feature.weights for feature in self.features]).reshape(-1, len(self.names))

    def scaled(self, params: Mapping[str, float]) -> Floats:
        """Parameters -> 0..1 [d]."""
        values = np.array([params[name] for name in self.names])
        return np.asarray((values - self.low) / (self.high - self.low))

    def params(self, scaled: Floats) -> dict[str, float]:
        """0..1 [d] -> parameters; rounding never leaves the bounds."""
        values = np.clip(self.low + scaled * (self.high - self.low), self.low, self.high)
        return dict(zip(self.names, map(float, values), strict=True))

    @classmethod
    def of(cls, space: SearchSpace) -> Geometry:
        """Work out the features, length scales and modes of any space."""
        parameters = space.parameters
        low = np.array([row.low for row in parameters])
        high = np.array([row.high for row in parameters])
        parts = [
            _Section.of(space, slot, section)
            for slot in dict.fromkeys(row.slot for row in parameters)
            for section in _section_names(space, slot)
        ]
        features = _independent([feature for part in parts for feature in part.features()])
        modes = [mode for part in parts for mode in part.modes()]
        labels = _labels(space)
        names = tuple(dict.fromkeys(labels))
        return cls(
            names=tuple(row.name for row in parameters),
            low=low,
            high=high,
            features=features if len(features) < len(parameters) else (),
            groups=tuple(names.index(label) for label in labels),
            group_names=names,
            levels=np.array([part.modes()[0] for part in parts]),
            modes=np.array(modes),
            waves=_waves(space),
        )


def _section_of(place: str, architecture: Architecture) -> str:
    if place == VAE:
        return "VAE"
    return section_of(place) if place in blocks(architecture) else "TEXT"


def _is_global(parameter: Parameter, space: SearchSpace) -> bool:
    """Whether it is one number for everything: it has no depth."""
    found = {_section_of(place, space.architecture) for place in parameter.places}
    every = sections(space.architecture)
    return len(found) > 1 and {every[0], every[-1]} <= found


def _section_names(space: SearchSpace, slot: int) -> tuple[str, ...]:
    found = {
        _section_of(place, space.architecture) for row in space.parameters if row.slot == slot for place in row.places
    }
    return tuple(name for name in ("TEXT", *sections(space.architecture), "VAE") if name in found)


def _labels(space: SearchSpace) -> tuple[str, ...]:
    """The length scale each parameter shares: its slot's in its section, or its own."""
    if len(space.parameters) <= PLAIN_DIMENSIONS:
        return tuple(row.name for row in space.parameters)
    return tuple(
        row.name
        if _is_global(row, space)
        else f"{_section_of(row.places[0], space.architecture)} of {space.slots[row.slot].name}"
        for row in space.parameters
    )


@dataclass(frozen=True, kw_only=True)
class _Section:
    """The searched places of one section in one slot."""

    label: str
    depth: Floats  # [n] of each searched place, -1..1 over the section
    members: tuple[int, ...]  # [n] the parameter of each place
    scale: Floats  # [d]: what a parameter's 0..1 means in the slot's widest range
    separate: bool  # text encoders and VAE: no order among them, each place is a feature

    @classmethod
    def of(cls, space: SearchSpace, slot: int, section: str) -> _Section:
        order = [place for place in places(space.architecture) if _section_of(place, space.architecture) == section]
        owner = {place: index for index, row in enumerate(space.parameters) if row.slot == slot for place in row.places}
        searched = [(at, owner[place]) for at, place in enumerate(order) if place in owner]
        widths = np.array([row.high - row.low for row in space.parameters])
        return cls(
            label=f"{section} {{}} of {space.slots[slot].name}",
            depth=np.array([2 * at / max(len(order) - 1, 1) - 1 for at, _ in searched]),
            members=tuple(member for _, member in searched),
            scale=widths / max(widths[index] for _, index in searched),
            separate=section in {"TEXT", "VAE"},
        )

    def features(self) -> list[Feature]:
        """Least-squares level, slope and bend of the profile; as many as there are parameters."""
        if self.separate:
            return [
                Feature(name=self.label.format(f"part {index + 1}"), weights=np.eye(len(self.scale))[member])
                for index, member in enumerate(dict.fromkeys(self.members))
            ]
        fit = np.linalg.pinv(self._shapes())  # [shapes, places]
        rows = np.zeros((len(fit), len(self.scale)))
        for at, member in enumerate(self.members):
            rows[:, member] += fit[:, at] * self.scale[member]
        return [Feature(name=self.label.format(shape), weights=row) for shape, row in zip(SHAPES, rows, strict=False)]

    def modes(self) -> list[Floats]:
        """The shapes as directions in parameter space; a parameter of several places moves by their mean."""
        rows = []
        for shape in self._shapes().T:
            row = np.zeros(len(self.scale))
            for member in set(self.members):
                row[member] = np.mean([value for value, who in zip(shape, self.members, strict=True) if who == member])
            rows.append(row / max(np.abs(row).max(), 1e-9))
        return rows

    def _shapes(self) -> Floats:
        """[places, shapes]: no more shapes than parameters."""
        t = self.depth
        return np.stack([np.ones_like(t), t, (3 * t**2 - 1) / 2], axis=1)[:, : len(set(self.members))]


def _independent(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Without those that are combinations of earlier ones, as where a group spans two sections."""
    kept: list[Feature] = []
    basis: list[Floats] = []
    for feature in features:
        rest = feature.weights.copy()
        for row in basis:
            rest -= (rest @ row) * row
        if (length := np.linalg.norm(rest)) > INDEPENDENT * np.linalg.norm(feature.weights):
            kept.append(feature)
            basis.append(rest / length)
    return tuple(kept)


def _waves(space: SearchSpace) -> Floats:
    order = {
        place: index / (len(blocks(space.architecture)) - 1) for index, place in enumerate(blocks(space.architecture))
    }
    rows = []
    for wave in (0.0, 1.0, 2.0):
        values = {place: float(np.cos(np.pi * wave * at)) for place, at in order.items()}
        rows.append(
            [np.mean([values.get(place, float(wave == 0)) for place in row.places]) for row in space.parameters]
        )
    return np.array(rows)
