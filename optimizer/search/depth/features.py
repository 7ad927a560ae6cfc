"""Depth features: prior knowledge of a search space, before any merge has been tried.

Notation: d parameters, scaled to 0..1 by their bounds; f depth features, linear in them; s sections of slots; k smooth
modes. All arrays are float64.

Neighbouring blocks do similar work, so a few numbers describe most of a profile of ratios: its level, slope and bend
over the input blocks, the same over the output blocks, and the values of the middle block and the text encoders. These
are the *depth features* of each slot. The *modes* are the corresponding directions in parameter space, in which a whole
section moves smoothly. Candidates are made of modes.
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
INDEPENDENT = 1e-6  # smallest share of a feature's length that must be orthogonal to the features before it
PLAIN_DIMENSIONS = 8  # with no more parameters than this, each has its own length scale


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
    features: tuple[Feature, ...]  # empty if there are as many as parameters, so that they would add nothing
    groups: tuple[int, ...]  # index of each parameter's length scale [d]
    group_names: tuple[str, ...]  # of the length scales
    levels: Floats  # [s, d]: the direction in which a section of a slot moves as a whole
    modes: Floats  # [k, d]: level, slope and bend of each section, largest entry 1
    waves: Floats  # [3, d]: a constant, half a cosine wave and a whole one over the U-Net's depth

    @property
    def weights(self) -> Floats:
        """The weights of all features [f, d]."""
        return np.array([feature.weights for feature in self.features]).reshape(-1, len(self.names))

    def scaled(self, params: Mapping[str, float]) -> Floats:
        """Scale parameters to 0..1 by their bounds [d]."""
        values = np.array([params[name] for name in self.names])
        return np.asarray((values - self.low) / (self.high - self.low))

    def params(self, scaled: Floats) -> dict[str, float]:
        """Turn scaled values [d] back into parameters, clipped to their bounds."""
        values = np.clip(self.low + scaled * (self.high - self.low), self.low, self.high)
        return dict(zip(self.names, map(float, values), strict=True))

    @classmethod
    def of(cls, space: SearchSpace) -> Geometry:
        """Work out the features, length scales and modes of a space."""
        parameters = space.parameters
        low = np.array([parameter.low for parameter in parameters])
        high = np.array([parameter.high for parameter in parameters])
        slot_sections = [
            _Section.of(space, slot, section)
            for slot in dict.fromkeys(parameter.slot for parameter in parameters)
            for section in _section_names(space, slot)
        ]
        features = _independent([feature for section in slot_sections for feature in section.features()])
        modes = [mode for section in slot_sections for mode in section.modes()]
        labels = _labels(space)
        names = tuple(dict.fromkeys(labels))
        return cls(
            names=tuple(parameter.name for parameter in parameters),
            low=low,
            high=high,
            features=features if len(features) < len(parameters) else (),
            groups=tuple(names.index(label) for label in labels),
            group_names=names,
            levels=np.array([section.modes()[0] for section in slot_sections]),
            modes=np.array(modes),
            waves=_waves(space),
        )


def _section_of(place: str, architecture: Architecture) -> str:
    """Return the section of a place; all text encoders are one section, TEXT, and the VAE is one."""
    if place == VAE:
        return "VAE"
    return section_of(place) if place in blocks(architecture) else "TEXT"


def _is_global(parameter: Parameter, space: SearchSpace) -> bool:
    """Return whether a parameter is one number for the whole U-Net, which has no depth."""
    spanned = {_section_of(place, space.architecture) for place in parameter.places}
    in_order = sections(space.architecture)
    return len(spanned) > 1 and {in_order[0], in_order[-1]} <= spanned


def _section_names(space: SearchSpace, slot: int) -> tuple[str, ...]:
    """List the sections with a searched place in a slot, in order."""
    searched = {
        _section_of(place, space.architecture)
        for parameter in space.parameters
        if parameter.slot == slot
        for place in parameter.places
    }
    return tuple(name for name in ("TEXT", *sections(space.architecture), "VAE") if name in searched)


def _labels(space: SearchSpace) -> tuple[str, ...]:
    """Name each parameter's length scale: its section's in its slot, or its own."""
    if len(space.parameters) <= PLAIN_DIMENSIONS:
        return tuple(parameter.name for parameter in space.parameters)
    return tuple(
        parameter.name
        if _is_global(parameter, space)
        else f"{_section_of(parameter.places[0], space.architecture)} of {space.slots[parameter.slot].name}"
        for parameter in space.parameters
    )


@dataclass(frozen=True, kw_only=True)
class _Section:
    """The n searched places of one section in one slot."""

    label: str  # template of the features' names
    depth: Floats  # [n]: of each place, -1..1 over the section
    members: tuple[int, ...]  # [n]: index of each place's parameter
    scale: Floats  # [d]: width of a parameter's bounds relative to the section's widest
    separate: bool  # text encoders and VAE have no order, so each place is a feature

    @classmethod
    def of(cls, space: SearchSpace, slot: int, section: str) -> _Section:
        order = [place for place in places(space.architecture) if _section_of(place, space.architecture) == section]
        parameter_of = {
            place: index
            for index, parameter in enumerate(space.parameters)
            if parameter.slot == slot
            for place in parameter.places
        }
        searched = [(at, parameter_of[place]) for at, place in enumerate(order) if place in parameter_of]
        widths = np.array([parameter.high - parameter.low for parameter in space.parameters])
        return cls(
            label=f"{section} {{}} of {space.slots[slot].name}",
            depth=np.array([2 * at / max(len(order) - 1, 1) - 1 for at, _ in searched]),
            members=tuple(member for _, member in searched),
            scale=widths / max(widths[index] for _, index in searched),
            separate=section in {"TEXT", "VAE"},
        )

    def features(self) -> list[Feature]:
        """Return the least-squares level, slope and bend of the profile; no more than there are parameters."""
        if self.separate:
            return [
                Feature(name=self.label.format(f"part {index + 1}"), weights=np.eye(len(self.scale))[member])
                for index, member in enumerate(dict.fromkeys(self.members))
            ]
        fit = np.linalg.pinv(self._shapes())  # [shapes, n]
        weights = np.zeros((len(fit), len(self.scale)))
        for at, member in enumerate(self.members):
            weights[:, member] += fit[:, at] * self.scale[member]
        return [
            Feature(name=self.label.format(shape), weights=of_shape)
            for shape, of_shape in zip(SHAPES, weights, strict=False)
        ]

    def modes(self) -> list[Floats]:
        """Return the shapes as directions [d] in parameter space; a parameter of several places moves by their mean."""
        modes = []
        for shape in self._shapes().T:
            mode = np.zeros(len(self.scale))
            for member in set(self.members):
                mode[member] = np.mean([value for value, of in zip(shape, self.members, strict=True) if of == member])
            modes.append(mode / max(np.abs(mode).max(), 1e-9))
        return modes

    def _shapes(self) -> Floats:
        """Evaluate the Legendre polynomials at each place [n, shapes]; no more shapes than parameters."""
        t = self.depth
        return np.stack([np.ones_like(t), t, (3 * t**2 - 1) / 2], axis=1)[:, : len(set(self.members))]


def _independent(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Drop features that are linear combinations of earlier ones, as when a group spans two sections (Gram-Schmidt)."""
    independent: list[Feature] = []
    basis: list[Floats] = []
    for feature in features:
        residual = feature.weights.copy()
        for direction in basis:
            residual -= (residual @ direction) * direction
        if (length := np.linalg.norm(residual)) > INDEPENDENT * np.linalg.norm(feature.weights):
            independent.append(feature)
            basis.append(residual / length)
    return tuple(independent)


def _waves(space: SearchSpace) -> Floats:
    """Evaluate cosine waves over the U-Net's depth at each parameter [3, d]; outside the U-Net only the constant."""
    in_order = blocks(space.architecture)
    depth = {block: index / (len(in_order) - 1) for index, block in enumerate(in_order)}
    waves = []
    for half_waves in (0.0, 1.0, 2.0):
        values = {block: float(np.cos(np.pi * half_waves * at)) for block, at in depth.items()}
        elsewhere = float(half_waves == 0)
        waves.append(
            [np.mean([values.get(place, elsewhere) for place in parameter.places]) for parameter in space.parameters]
        )
    return np.array(waves)
