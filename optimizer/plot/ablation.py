"""The ablation of a merge: each block alone is swapped for another parent's, so that one sees what it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimizer.errors import PlotError
from optimizer.plot.base import Base, alone
from optimizer.plot.changes import Change
from optimizer.plot.permutations import pair_blueprint
from optimizer.plot.tables import Cell, Table, in_suites
from search_spaces.blocks import VAE, place_label, places
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import Blueprint, NumbersByPlace
from studies.recipe.recipe import Recipe
from studies.spec.suite import SuiteSettings

COLUMNS = 9  # cells in a line of the strip


def ablation_tables(
    base: Base, space: SearchSpace, blueprint: Blueprint, suite: SuiteSettings, images: int, deep: Sequence[Change]
) -> tuple[Table, ...]:
    """Return a strip for each other parent and each value of an axis over settings: the base, then a cell for a place.

    Places are the text encoders, then the blocks in the order in which the signal passes them. The VAE stays.

    Raises:
        PlotError: as for `in_suites`, or the merge's steps do not yield the base or another parent.
    """
    others = [parent.letter for parent in blueprint.parents if parent.letter != base.parent]
    return tuple(
        _strip(base, other, space, blueprint, heading, cell_suite)
        for heading, cell_suite in in_suites(suite, deep, images)
        for other in others
    )


def _strip(
    base: Base, other: str, space: SearchSpace, blueprint: Blueprint, heading: str, suite: SuiteSettings
) -> Table:
    base_recipe, swapped = _recipes(base, other, space, blueprint)
    first = Cell(label=base.label, caption=f"base: {base.label}", recipe=base_recipe, suite=suite)
    cells = [first]
    for place, recipe in swapped:
        label = place_label(place, blueprint.architecture)
        cells.append(Cell(label=f"{label} of {other}", caption=label, recipe=recipe, suite=suite))
    title = f"{base.label}, with one block of {other} ({blueprint.parent(other).name})"
    return Table(
        title=f"{title} · {heading}" if heading else title,
        columns=(),
        rows=(),
        cells=in_lines(cells),
        base=first,
    )


def in_lines(cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """Return the cells of a strip in lines."""
    return tuple(tuple(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS))


def _recipes(
    base: Base, other: str, space: SearchSpace, blueprint: Blueprint
) -> tuple[Recipe, list[tuple[str, Recipe]]]:
    """Return the base, and each place with the merge in which it alone is another parent's."""
    every = [place for place in places(blueprint.architecture) if place != VAE]
    if base.parent is not None:
        pair = pair_blueprint(blueprint, base.parent, other)
        own: NumbersByPlace = dict.fromkeys(places(blueprint.architecture), (0.0,))
        return pair.recipe(own), [(place, pair.recipe({**own, place: (1.0,)})) for place in every]
    own, theirs = base.varied, alone(other, space, blueprint)
    if theirs is None:
        raise PlotError(
            f"the steps of this merge do not yield parent {other}, so no block can be swapped for its: give --base A, "
            "which swaps blocks of parents"
        )
    return blueprint.recipe(own), list(_swapped(own, theirs, every, blueprint))


def _swapped(
    own: NumbersByPlace, theirs: NumbersByPlace, every: Sequence[str], blueprint: Blueprint
) -> Iterator[tuple[str, Recipe]]:
    """Yield each place with its merge. A LoRA keeps its weight there: it is not the parent's."""
    ratios = len(theirs[every[0]]) - len(blueprint.loras)
    for place in every:
        yield place, blueprint.recipe({**own, place: (*theirs[place][:ratios], *own[place][ratios:])})
