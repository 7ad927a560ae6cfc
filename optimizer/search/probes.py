"""Probes: the trials every study begins with, before the sampler takes over.

The parents alone are what every gain is measured against; uniform ratios are what most people would try by
hand; smooth depth profiles tell the sampler early which end of the U-Net wants which parent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.blocks import VAE, Architecture, blocks, places
from search_spaces.errors import OutsideSpaceError
from search_spaces.space import SearchSpace
from studies.recipe import Parent, Recipe, canonical_ratios
from studies.spec import ProbeSettings, StudySpec

Ratios = Mapping[str, tuple[float, ...]]
RATIO_DIGITS = 6  # far finer than any ratio matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One trial chosen by us."""

    origin: str  # what the trial is called: "parent A", "uniform 0.5", "profile rising" ...
    recipe: Recipe
    params: Mapping[str, float] | None  # None: outside the search space, so nothing a sampler could learn from


def make_probes(
    spec: StudySpec, space: SearchSpace, parents: Sequence[Parent], alike: frozenset[str]
) -> tuple[Probe, ...]:
    """Each parent, then uniform ratios, then depth profiles; a probe equal to an earlier one is left out.

    Args:
        alike: places in which all parents hold the same values, so that their ratio means nothing; often the VAE.
    """
    probes = [_parent_probe(spec, space, parents, index, alike) for index in range(len(parents))]
    seen = {probe.recipe.digest for probe in probes}
    for origin, ratios in _wanted(spec.probes, space, spec.sampler.seed):
        params = _rounded(space.nearest(ratios), space)
        recipe = recipe_for(spec, space, parents, params)
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            probes.append(Probe(origin=_honest(origin, ratios, recipe), recipe=recipe, params=params))
    return tuple(probes)


def _honest(origin: str, wanted: Ratios, recipe: Recipe) -> str:
    """Bounds and frozen places may keep a uniform probe from being uniform; then it is not called so plainly."""
    made = recipe.by_place
    off = [place for place in made if place != VAE and made[place] != wanted[place]]
    return f"{origin} within the space" if off and origin.startswith("uniform ") else origin


def _rounded(params: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """Ratios as people write them: a mean of .49999999999999994 would be another probe than .5."""
    bounds = {row.name: (row.low, row.high) for row in space.parameters}
    return {
        name: min(max(round(value, RATIO_DIGITS), bounds[name][0]), bounds[name][1]) for name, value in params.items()
    }


def recipe_for(spec: StudySpec, space: SearchSpace, parents: Sequence[Parent], params: Mapping[str, float]) -> Recipe:
    """The recipe a trial's parameters stand for."""
    return Recipe(
        architecture=space.architecture.value,
        method=spec.method,
        parents=tuple(parents),
        ratios=canonical_ratios(space.ratios(params)),
        dtype=spec.export.dtype,
    )


def _parent_probe(
    spec: StudySpec, space: SearchSpace, parents: Sequence[Parent], index: int, alike: frozenset[str]
) -> Probe:
    """The whole parent, frozen places and VAE included: it is the file the user has.

    Where the space cannot express it (a frozen place, bounds, the base of an add difference), the trial carries
    no parameters.
    """
    origin = f"parent {parents[index].letter}"
    method, alone = (
        "weighted_sum",
        tuple(1.0 if slot == index - 1 else 0.0 for slot in range(len(parents) - 1)),
    )
    if index == 0:  # parent A is what every method gives at ratio 0
        method, alone = spec.method, (0.0,) * len(space.slots)
    ratios = dict.fromkeys(places(space.architecture), alone)
    expressible = method == spec.method
    if expressible:
        ratios |= {place: (ratio,) * len(space.slots) for place, ratio in space.fixed if place in alike}
    recipe = Recipe(
        architecture=space.architecture.value,
        method=method,
        parents=tuple(parents),
        ratios=canonical_ratios(ratios),
        dtype=spec.export.dtype,
    )
    try:
        return Probe(origin=origin, recipe=recipe, params=space.params(ratios) if expressible else None)
    except OutsideSpaceError:
        return Probe(origin=origin, recipe=recipe, params=None)


def _wanted(settings: ProbeSettings, space: SearchSpace, seed: int) -> list[tuple[str, Ratios]]:
    slots = len(space.slots)
    every = places(space.architecture)
    uniform = [(f"uniform {ratio:g}", dict.fromkeys(every, (ratio,) * slots)) for ratio in settings.uniform]
    return [*uniform, *_profiles(settings.profiles, space.architecture, slots, seed)]


# ---------------------------------------------------------------------------------- depth profiles

Shape = Callable[[float], float]  # depth 0 (first input block) .. 1 (last output block) -> ratio 0 .. 1

SHAPES: tuple[tuple[str, Shape], ...] = (
    ("rising", lambda depth: 0.1 + 0.8 * depth),
    ("falling", lambda depth: 0.9 - 0.8 * depth),
    ("hill", lambda depth: 0.1 + 0.8 * math.sin(math.pi * depth)),
    ("valley", lambda depth: 0.9 - 0.8 * math.sin(math.pi * depth)),
)


def _profiles(count: int, architecture: Architecture, slots: int, seed: int) -> list[tuple[str, Ratios]]:
    """The four plain shapes, then random smooth ones; text encoders and VAE take the profile's mean."""
    generator = random.Random(seed)  # noqa: S311 - nothing secret
    named = list(SHAPES[:count])
    named += [(f"smooth {index + 1}", _random_shape(generator)) for index in range(count - len(named))]
    order = blocks(architecture)
    profiles: list[tuple[str, Ratios]] = []
    for name, shape in named:
        values = {block: shape(index / (len(order) - 1)) for index, block in enumerate(order)}
        mean = sum(values.values()) / len(values)
        profiles.append(
            (f"profile {name}", {place: (values.get(place, mean),) * slots for place in places(architecture)})
        )
    return profiles


def _random_shape(generator: random.Random) -> Shape:
    """A level, a half and a whole cosine wave with random weights, kept within 0..1."""
    level, half, whole = (
        generator.uniform(0.3, 0.7),
        generator.uniform(-0.4, 0.4),
        generator.uniform(-0.3, 0.3),
    )

    def shape(depth: float) -> float:
        value = level + half * math.cos(math.pi * depth) + whole * math.cos(2 * math.pi * depth)
        return min(1.0, max(0.0, value))

    return shape
