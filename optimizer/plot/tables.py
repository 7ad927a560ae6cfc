"""The tables of a plot: which merge each cell shows, and what of it; nothing is rendered yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizer.errors import PlotError
from optimizer.plot.changes import Change, Variant
from optimizer.plot.suites import shown
from studies.recipe.blueprint import Blueprint, NumbersByPlace
from studies.recipe.recipe import Recipe
from studies.spec.suite import SuiteSettings

MOST_CELLS = 2000  # of a plot: more could not be looked at

Identity = tuple[str, str, str]
"""What two cells with the same pictures and scores share: the digests of the recipe and of the suite, and of how its
images count."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One merge, and the images of it that are shown."""

    label: str  # for progress and for the zoomed picture
    caption: str = ""  # shown below the picture, where headings do not say it
    recipe: Recipe
    suite: SuiteSettings

    @cached_property
    def identity(self) -> Identity:
        """What the cell's pictures and scores are of."""
        return self.recipe.digest, self.suite.digest, self.suite.scoring_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of cells."""

    title: str
    columns: tuple[str, ...]  # headings; empty where each cell has a caption
    rows: tuple[str, ...]  # headings; empty as well
    cells: tuple[tuple[Cell, ...], ...]  # by row; the last row may be shorter
    base: Cell | None = None  # to whose pictures those of all cells have a distance

    @property
    def every(self) -> tuple[Cell, ...]:
        """All cells, row by row."""
        return tuple(cell for row in self.cells for cell in row)


Axes = tuple[Sequence[Change], Sequence[Change], Sequence[Change]]
"""The changes along x, y and z; an axis that was not given has none."""


def grid_tables(
    base: NumbersByPlace, suite: SuiteSettings, images: int, axes: Axes, blueprint: Blueprint
) -> tuple[Table, ...]:
    """Return a table for each value of z, with x along its columns and y along its rows.

    Args:
        images: of each cell.

    Raises:
        PlotError: the suite cannot be changed as an axis asks, or has too few images.
    """
    across, down, deep = axes
    start = Variant(numbers=base, suite=suite)
    return tuple(
        Table(
            title=_label(behind),
            columns=tuple(map(_label, _or_none(across))),
            rows=tuple(map(_label, _or_none(down))),
            cells=tuple(
                tuple(
                    Cell(
                        label=_joined(beside, below, behind),
                        recipe=blueprint.recipe(variant.numbers),
                        suite=shown(variant.suite, images),
                    )
                    for beside, variant in _each(across, of_row)
                )
                for below, of_row in _each(down, of_table)
            ),
        )
        for behind, of_table in _each(deep, start)
    )


def in_suites(suite: SuiteSettings, deep: Sequence[Change], images: int) -> Iterator[tuple[str, SuiteSettings]]:
    """Yield the heading and the suite of each value of an axis over settings; one of no heading without an axis.

    Raises:
        PlotError: as for `grid_tables`, or the axis is over numbers of the merge.
    """
    for change, variant in _each(deep, Variant(numbers={}, suite=suite)):
        yield _label(change), shown(variant.suite, images)


def require_few(count: int) -> None:
    """Refuse a plot that nobody could look at.

    Args:
        count: its cells.

    Raises:
        PlotError: there are more than `MOST_CELLS`.
    """
    if count > MOST_CELLS:
        raise PlotError(
            f"the plot has {count:,} cells, at most {MOST_CELLS:,} can be drawn: give the axes fewer values"
        )


def _or_none(axis: Sequence[Change]) -> Sequence[Change | None]:
    return axis or (None,)


def _label(change: Change | None) -> str:
    return "" if change is None else change.label


def _each(axis: Sequence[Change], variant: Variant) -> Iterator[tuple[Change | None, Variant]]:
    """Yield each change of an axis with what it makes of a variant; the variant itself without an axis."""
    for change in _or_none(axis):
        yield change, variant if change is None else change.applied(variant)


def _joined(*changes: Change | None) -> str:
    return " · ".join(change.label for change in changes if change is not None)
