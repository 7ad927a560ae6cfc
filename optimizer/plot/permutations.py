"""The permutations of two parents: each section of the model is one's or the other's, and so are the text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from optimizer.plot.changes import Change
from optimizer.plot.tables import Cell, Table, in_suites
from search_spaces.blocks import VAE, blocks, places, section_of, sections
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import Operation, Recipe
from studies.spec.suite import SuiteSettings


def pair_blueprint(blueprint: Blueprint, first: str, second: str) -> Blueprint:
    """Return the blueprint of a weighted sum of two of the parents, without LoRAs; it has one ratio, of the second."""
    operation = Operation(method="weighted_sum", inputs=(first, second))
    return replace(blueprint, operations=(operation,), loras=())


def permutation_tables(
    blueprint: Blueprint, suite: SuiteSettings, images: int, deep: Sequence[Change]
) -> tuple[Table, ...]:
    """Return a table of parent A with each further parent, for each value of an axis over settings.

    Columns are the assignments of the two to the sections, rows those to the text encoders. The cells that are one
    parent throughout are that parent itself, with its own VAE; all others have the VAE that the spec bakes in, or A's.

    Raises:
        PlotError: as for `in_suites`.
    """
    first, *others = (parent.letter for parent in blueprint.parents)
    return tuple(
        _table(blueprint, first, other, heading, cell_suite)
        for heading, cell_suite in in_suites(suite, deep, images)
        for other in others
    )


def _table(blueprint: Blueprint, first: str, second: str, heading: str, suite: SuiteSettings) -> Table:
    names = [f"{letter} ({blueprint.parent(letter).name})" for letter in (first, second)]
    order = sections(blueprint.architecture)
    columns = tuple(product((first, second), repeat=len(order)))
    title = f"Parents {' and '.join(names)}; columns: {', '.join(order)}"
    return Table(
        title=f"{title} · {heading}" if heading else title,
        columns=tuple(" ".join(column) for column in columns),
        rows=tuple(f"text encoders of {text}" for text in (first, second)),
        cells=tuple(
            tuple(_cell(blueprint, first, second, text, column, suite) for column in columns)
            for text in (first, second)
        ),
    )


def _cell(
    blueprint: Blueprint, first: str, second: str, text: str, column: Sequence[str], suite: SuiteSettings
) -> Cell:
    named = [f"{section} {letter}" for section, letter in zip(sections(blueprint.architecture), column, strict=True)]
    whole = len({text, *column}) == 1
    return Cell(
        label=f"{', '.join(named)}, text encoders {text}",
        caption=f"parent {text} itself" if whole else "",
        recipe=blueprint.parent_alone(text) if whole else _assigned(blueprint, first, second, text, column),
        suite=suite,
    )


def _assigned(blueprint: Blueprint, first: str, second: str, text: str, column: Sequence[str]) -> Recipe:
    """Return the merge with each section of the parent that the column says, and the text encoders of one parent."""
    of_place = dict(_owners(blueprint, first, text, column))
    numbers = {place: (1.0 if owner == second else 0.0,) for place, owner in of_place.items()}
    return pair_blueprint(blueprint, first, second).recipe(numbers)


def _owners(blueprint: Blueprint, first: str, text: str, column: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every place with the letter of the parent whose it is."""
    owners, unet = dict(zip(sections(blueprint.architecture), column, strict=True)), set(blocks(blueprint.architecture))
    for place in places(blueprint.architecture):
        yield place, first if place == VAE else owners[section_of(place)] if place in unet else text
