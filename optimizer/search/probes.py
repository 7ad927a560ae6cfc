"""Probes: the trials every study begins with, before the sampler takes over.

Every gain is measured against the parents alone. Uniform ratios are what most people would try by hand. Recipes and
presets are what the user already believes in. Smooth depth profiles show the sampler early which parent is better at
which end of the U-Net.
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
from studies.recipe.adoption import rows_of
from studies.recipe.blueprint import Blueprint, Rows, alone_row
from studies.recipe.recipe import Recipe
from studies.records.origins import Origin
from studies.spec.study import StudySpec

Ratios = Mapping[str, float]  # place -> ratio
RATIO_DIGITS = 6  # far finer than any ratio matters
NAME_LENGTH = 80  # characters of a recipe file's name that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One trial chosen by us."""

    origin: Origin
    recipe: Recipe
    params: Mapping[str, float] | None  # None: outside the search space, so nothing a sampler could learn from


def make_probes(
    spec: StudySpec, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]
) -> tuple[Probe, ...]:
    """Each parent, uniform ratios, recipes, presets, merges of another study, then depth profiles.

    A probe equal to an earlier one is left out.

    Args:
        spec: with its recipe files read (see `recipe_probes.with_recipes`).
        equal_places: in which all parents hold the same values, so that a ratio means nothing; often the VAE.
    """
    parents = [parent_probe(space, blueprint, parent.letter, equal_places) for parent in blueprint.parents]
    seen = {blueprint.parent_alone(parent.letter).digest for parent in blueprint.parents}
    seen |= {probe.recipe.digest for probe in parents}
    probes = []
    for probe in _wanted(spec, space, blueprint, equal_places):
        if probe.recipe.digest not in seen:
            seen.add(probe.recipe.digest)
            probes.append(probe)
    return (*parents, *probes)


def without(probes: Sequence[Probe], known: Collection[str]) -> tuple[Probe, ...]:
    """The probes whose recipes' digests are not among those known."""
    return tuple(probe for probe in probes if probe.recipe.digest not in known)


def _wanted(spec: StudySpec, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]) -> Iterator[Probe]:
    """Everything but the parents, in order."""
    every = places(space.architecture)
    for ratio in spec.probes.uniform:
        yield _near(Origin("uniform", f"{ratio:g}"), dict.fromkeys(every, ratio), space, blueprint)
    for entry in spec.probes.recipes:
        if entry.recipe is None:
            raise ValueError(f"{entry.path} was not read: call with_recipes first")
        origin = Origin("recipe", entry.path.stem[:NAME_LENGTH])
        yield exact(origin, Recipe.from_json(entry.recipe), space, blueprint, equal_places)
    for name in spec.probes.presets:
        yield exact(Origin("preset", name), _preset_recipe(name, space, blueprint), space, blueprint, equal_places)
    for found in spec.warm_start.again if spec.warm_start else ():
        yield exact(Origin("warm start", found.name), Recipe.from_json(found.recipe), space, blueprint, equal_places)
    for name, ratios in _profiles(spec.probes.profiles, space.architecture, spec.sampler.seed):
        yield _near(Origin("profile", name), ratios, space, blueprint)


def _near(origin: Origin, ratios: Ratios, space: SearchSpace, blueprint: Blueprint) -> Probe:
    """Make a probe of the merge in the space that is closest to these ratios."""
    rows = space.profile_rows(ratios)
    params = _rounded(space.nearest(rows), space)
    made = space.rows(params)
    return Probe(origin=_honest(origin, rows, made, space), recipe=blueprint.recipe(made), params=params)


def exact(
    origin: Origin, recipe: Recipe, space: SearchSpace, blueprint: Blueprint, equal_places: frozenset[str]
) -> Probe:
    """A recipe over the blueprint's files as it is, with its parameters where the space can express it.

    In places in which all parents are equal every ratio gives the same merge, so there the space's own is taken.
    """
    rows = rows_of(recipe, blueprint)
    if rows is not None:
        made = {place: list(row) for place, row in rows.items()}
        for place, index, value in space.fixed:
            if place in equal_places and index in space.ratio_slots:
                made[place][index] = value
        expressed = {place: tuple(row) for place, row in made.items()}
        try:
            return Probe(origin=origin, recipe=blueprint.recipe(expressed), params=space.params(expressed))
        except OutsideSpaceError:
            pass
    return Probe(origin=origin, recipe=recipe, params=None)


def _preset_recipe(name: str, space: SearchSpace, blueprint: Blueprint) -> Recipe:
    """Block weights and base alpha in every ratio slot; the VAE and all other numbers as the space has them."""
    wanted = space.profile_rows(preset_ratios(name, space.architecture))
    within = space.rows(space.nearest(wanted))
    return blueprint.recipe(
        {
            place: tuple(
                number if place != VAE and index in space.ratio_slots else within[place][index]
                for index, number in enumerate(row)
            )
            for place, row in wanted.items()
        }
    )


def _honest(origin: Origin, wanted: Rows, made: Rows, space: SearchSpace) -> Origin:
    """Add `within the space` to a uniform probe's name if bounds or frozen places keep it from being uniform."""
    off = [
        place
        for place in made
        if place != VAE and any(made[place][slot] != wanted[place][slot] for slot in space.ratio_slots)
    ]
    return replace(origin, name=f"{origin.name} within the space") if off and origin.kind == "uniform" else origin


def _rounded(params: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """Round ratios as people write them: a mean of .49999999999999994 would be another probe than .5."""
    bounds = {row.name: (row.low, row.high) for row in space.parameters}
    return {
        name: min(max(round(value, RATIO_DIGITS), bounds[name][0]), bounds[name][1]) for name, value in params.items()
    }


def parent_probe(space: SearchSpace, blueprint: Blueprint, letter: str, equal_places: frozenset[str]) -> Probe:
    """The whole parent, frozen places and VAE included, without LoRAs: it is the file the user has.

    Where the space cannot express it (a frozen place, bounds, a base that only serves for a difference), the trial
    carries no parameters.
    """
    origin = Origin("parent", letter)
    rows = _rows_alone(space, blueprint, letter, equal_places)
    if rows is not None and (blueprint.vae is None or blueprint.only_vae):
        try:
            return Probe(origin=origin, recipe=blueprint.recipe(rows), params=space.params(rows))
        except OutsideSpaceError:
            pass
    return Probe(origin=origin, recipe=blueprint.parent_alone(letter), params=None)


def _rows_alone(space: SearchSpace, blueprint: Blueprint, letter: str, equal_places: frozenset[str]) -> Rows | None:
    """The numbers with which the merge is one parent; method parameters, which then mean nothing, at their default."""
    ratios = alone_row(blueprint.operations, [parent.letter for parent in blueprint.parents], letter)
    if ratios is None:
        return None
    fixed = {(place, index): value for place, index, value in space.fixed}
    bounds = {(place, row.slot): (row.low, row.high) for row in space.parameters for place in row.places}
    rows = {}
    for place in places(space.architecture):
        row = []
        for index, slot in enumerate(space.slots):
            wanted = 0.0 if slot.kind == "lora" else ratios[index]
            if wanted is None or (slot.kind == "ratio" and place in equal_places):
                low, high = bounds.get((place, index), (slot.default, slot.default))
                free = min(max(slot.default, low), high) if wanted is None else wanted
                wanted = fixed.get((place, index), free)
            row.append(wanted)
        rows[place] = tuple(row)
    return rows


# ---------------------------------------------------------------------------------- depth profiles

Shape = Callable[[float], float]  # depth 0 (first input block) .. 1 (last output block) -> ratio 0 .. 1

SHAPES: tuple[tuple[str, Shape], ...] = (
    ("rising", lambda depth: 0.1 + 0.8 * depth),
    ("falling", lambda depth: 0.9 - 0.8 * depth),
    ("hill", lambda depth: 0.1 + 0.8 * math.sin(math.pi * depth)),
    ("valley", lambda depth: 0.9 - 0.8 * math.sin(math.pi * depth)),
)


def _profiles(count: int, architecture: Architecture, seed: int) -> list[tuple[str, Ratios]]:
    """The four plain shapes, then random smooth ones; text encoders and VAE take the profile's mean."""
    generator = random.Random(seed)  # noqa: S311 - nothing secret
    named = list(SHAPES[:count])
    named += [(f"smooth {index + 1}", _random_shape(generator)) for index in range(count - len(named))]
    order = blocks(architecture)
    profiles: list[tuple[str, Ratios]] = []
    for name, shape in named:
        values = {block: shape(index / (len(order) - 1)) for index, block in enumerate(order)}
        mean = sum(values.values()) / len(values)
        profiles.append((name, {place: values.get(place, mean) for place in places(architecture)}))
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
