"""Probes: the trials that every study begins with, before the sampler takes over.

The parents alone come first, because every gain is measured against them. Uniform ratios are what most people would try
by hand. Recipes and presets are what the user already trusts. Smooth depth profiles show the sampler early which parent
is better at which end of the U-Net.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from search_spaces.block_presets import preset_ratios
from search_spaces.blocks import VAE, Architecture, blocks, places
from search_spaces.errors import OutsideSpaceError
from search_spaces.space import SearchSpace
from studies.recipe.adoption import numbers_of
from studies.recipe.blueprint import Blueprint, NumbersByPlace, alone_numbers
from studies.recipe.recipe import Recipe
from studies.records.origins import Origin
from studies.spec.study import StudySpec

Ratios = Mapping[str, float]  # place -> ratio
RATIO_DIGITS = 6  # decimal places; smaller differences between ratios do not matter
NAME_LENGTH = 80  # characters of a recipe file's name in the origin of its probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One trial that this program chooses, not the sampler."""

    origin: Origin
    recipe: Recipe
    params: Mapping[str, float] | None  # None: outside the search space, so a sampler cannot learn from it


def make_probes(
    spec: StudySpec, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]
) -> tuple[Probe, ...]:
    """Make a study's probes: parents, uniform ratios, recipes, presets, merges of another study, depth profiles.

    A probe whose recipe equals an earlier one's is left out.

    Args:
        spec: with its recipe files read (see `recipe_probes.with_recipes`).
        equal_places: places where all parents hold the same values, so that a ratio has no effect; often the VAE.

    Raises:
        ValueError: a recipe file was not read.
        RecipeError: a stored recipe is broken.
    """
    parents = [parent_probe(space, blueprint, parent.letter, equal_places) for parent in blueprint.parents]
    digests = {blueprint.parent_alone(parent.letter).digest for parent in blueprint.parents}
    digests |= {probe.recipe.digest for probe in parents}
    probes = []
    for probe in _probes_after_parents(spec, space, blueprint, equal_places):
        if probe.recipe.digest not in digests:
            digests.add(probe.recipe.digest)
            probes.append(probe)
    return (*parents, *probes)


def without(probes: Sequence[Probe], digests: Collection[str]) -> tuple[Probe, ...]:
    """Leave out the probes whose recipes have one of these digests."""
    return tuple(probe for probe in probes if probe.recipe.digest not in digests)


def _probes_after_parents(
    spec: StudySpec, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]
) -> Iterator[Probe]:
    """Yield all probes but the parents, in order; some may have the same recipe."""
    all_places = places(space.architecture)
    for ratio in spec.probes.uniform:
        yield _nearest_probe(Origin("uniform", f"{ratio:g}"), dict.fromkeys(all_places, ratio), space, blueprint)
    for entry in spec.probes.recipes:
        if entry.recipe is None:
            raise ValueError(f"expected recipe probes that are read, got {entry.path} unread: call with_recipes first")
        origin = Origin("recipe", entry.path.stem[:NAME_LENGTH])
        yield exact_probe(origin, Recipe.from_json(entry.recipe), space, blueprint, equal_places)
    for name in spec.probes.presets:
        recipe = _preset_recipe(name, space, blueprint)
        yield exact_probe(Origin("preset", name), recipe, space, blueprint, equal_places)
    for merge in spec.warm_start.again if spec.warm_start else ():
        recipe = Recipe.from_json(merge.recipe)
        yield exact_probe(Origin("warm start", merge.name), recipe, space, blueprint, equal_places)
    for name, ratios in _profiles(spec.probes.profiles, space.architecture, spec.sampler.seed):
        yield _nearest_probe(Origin("profile", name), ratios, space, blueprint)


def _nearest_probe(origin: Origin, ratios: Ratios, space: SearchSpace, blueprint: Blueprint) -> Probe:
    """Make a probe of the merge in the space that is closest to these ratios."""
    wanted = space.profile_numbers(ratios)
    params = _rounded(space.nearest(wanted), space)
    numbers = space.numbers_by_place(params)
    return Probe(origin=_qualified(origin, wanted, numbers, space), recipe=blueprint.recipe(numbers), params=params)


def exact_probe(
    origin: Origin, recipe: Recipe, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]
) -> Probe:
    """Make a probe of a recipe over the blueprint's files, unchanged; with parameters if the space can express it.

    Where all parents are equal, every ratio gives the same merge, so the ratio that the space fixes is used there.
    """
    own = numbers_of(recipe, blueprint)
    if own is not None:
        changed = {place: list(values) for place, values in own.items()}
        for place, index, value in space.fixed:
            if place in equal_places and index in space.ratio_slots:
                changed[place][index] = value
        numbers = {place: tuple(values) for place, values in changed.items()}
        try:
            return Probe(origin=origin, recipe=blueprint.recipe(numbers), params=space.params(numbers))
        except OutsideSpaceError:
            pass
    return Probe(origin=origin, recipe=recipe, params=None)


def _preset_recipe(name: str, space: SearchSpace, blueprint: Blueprint) -> Recipe:
    """Put a preset's block weights and base alpha into every ratio slot; the VAE and all other numbers are the space's.

    Raises:
        UnknownPresetError: no preset has this name.
    """
    wanted = space.profile_numbers(preset_ratios(name, space.architecture))
    nearest = space.numbers_by_place(space.nearest(wanted))
    return blueprint.recipe(
        {
            place: tuple(
                number if place != VAE and index in space.ratio_slots else nearest[place][index]
                for index, number in enumerate(values)
            )
            for place, values in wanted.items()
        }
    )


def _qualified(origin: Origin, wanted: NumbersByPlace, numbers: NumbersByPlace, space: SearchSpace) -> Origin:
    """Add `within the space` to a uniform probe's name if bounds or frozen places keep it from being uniform."""
    differs = any(
        place != VAE and any(numbers[place][slot] != wanted[place][slot] for slot in space.ratio_slots)
        for place in numbers
    )
    return replace(origin, name=f"{origin.name} within the space") if differs and origin.kind == "uniform" else origin


def _rounded(params: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """Round parameters within their bounds; otherwise a mean of .49999999999999994 would be another probe than .5."""
    bounds = {parameter.name: (parameter.low, parameter.high) for parameter in space.parameters}
    return {
        name: min(max(round(value, RATIO_DIGITS), bounds[name][0]), bounds[name][1]) for name, value in params.items()
    }


def parent_probe(space: SearchSpace, blueprint: Blueprint, letter: str, equal_places: frozenset[str]) -> Probe:
    """Make the probe of a whole parent, frozen places and VAE included, without LoRAs: the user's file.

    It has no parameters if the space cannot express it: because of a frozen place, bounds, or a base model that only
    serves for a difference.
    """
    origin = Origin("parent", letter)
    numbers = _numbers_alone(space, blueprint, letter, equal_places)
    if numbers is not None and (blueprint.vae is None or blueprint.only_vae):
        try:
            return Probe(origin=origin, recipe=blueprint.recipe(numbers), params=space.params(numbers))
        except OutsideSpaceError:
            pass
    return Probe(origin=origin, recipe=blueprint.parent_alone(letter), params=None)


def _numbers_alone(
    space: SearchSpace, blueprint: Blueprint, letter: str, equal_places: frozenset[str]
) -> NumbersByPlace | None:
    """Return the numbers with which the merge is one parent; None if there are none.

    The method's parameters have no effect then and take their defaults.
    """
    ratios = alone_numbers(blueprint.operations, [parent.letter for parent in blueprint.parents], letter)
    if ratios is None:
        return None
    fixed = {(place, index): value for place, index, value in space.fixed}
    bounds = {
        (place, parameter.slot): (parameter.low, parameter.high)
        for parameter in space.parameters
        for place in parameter.places
    }
    numbers = {}
    for place in places(space.architecture):
        own = []
        for index, slot in enumerate(space.slots):
            number = 0.0 if slot.kind == "lora" else ratios[index]
            if number is None or (slot.kind == "ratio" and place in equal_places):
                low, high = bounds.get((place, index), (slot.default, slot.default))
                unless_fixed = min(max(slot.default, low), high) if number is None else number
                number = fixed.get((place, index), unless_fixed)
            own.append(number)
        numbers[place] = tuple(own)
    return numbers


# ---------------------------------------------------------------------------------- depth profiles

Shape = Callable[[float], float]  # depth 0 (first input block) .. 1 (last output block) -> ratio 0 .. 1

SHAPES: tuple[tuple[str, Shape], ...] = (
    ("rising", lambda depth: 0.1 + 0.8 * depth),
    ("falling", lambda depth: 0.9 - 0.8 * depth),
    ("hill", lambda depth: 0.1 + 0.8 * math.sin(math.pi * depth)),
    ("valley", lambda depth: 0.9 - 0.8 * math.sin(math.pi * depth)),
)


def _profiles(count: int, architecture: Architecture, seed: int) -> list[tuple[str, Ratios]]:
    """Return the four plain shapes, then random smooth ones; text encoders and VAE take the profile's mean."""
    generator = random.Random(seed)  # noqa: S311 - nothing secret
    shapes = list(SHAPES[:count])
    shapes += [(f"smooth {index + 1}", _random_shape(generator)) for index in range(count - len(shapes))]
    order = blocks(architecture)
    profiles: list[tuple[str, Ratios]] = []
    for name, shape in shapes:
        values = {block: shape(index / (len(order) - 1)) for index, block in enumerate(order)}
        mean = sum(values.values()) / len(values)
        profiles.append((name, {place: values.get(place, mean) for place in places(architecture)}))
    return profiles


def _random_shape(generator: random.Random) -> Shape:
    """Sum a level, half a cosine wave and a whole one with random weights, clipped to 0..1."""
    level, half, whole = (
        generator.uniform(0.3, 0.7),
        generator.uniform(-0.4, 0.4),
        generator.uniform(-0.3, 0.3),
    )

    def shape(depth: float) -> float:
        value = level + half * math.cos(math.pi * depth) + whole * math.cos(2 * math.pi * depth)
        return min(1.0, max(0.0, value))

    return shape
