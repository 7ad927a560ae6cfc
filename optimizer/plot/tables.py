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

Identity = tuple[str, str]
"""What two cells with the same pictures share: the digests of recipe and suite."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One merge, and the images of it that are shown."""

    label: str  # for progress and for the zoomed picture
    caption: str = ""  # shown below the picture, where headings do not say it
    recipe: Recipe
    suite: SuiteSettings

    @cached_property
    def identity(self) -> Identity:
        """What the cell's pictures are of."""
        return self.recipe.digest, self.suite.digest


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
                tuple(_cell(start, (behind, below, beside), images, blueprint) for beside in _or_none(across))
                for below in _or_none(down)
            ),
        )
        for behind in _or_none(deep)
    )


def in_suites(suite: SuiteSettings, deep: Sequence[Change], images: int) -> Iterator[tuple[str, SuiteSettings]]:
    """Yield the heading and the suite of each value of an axis over settings; one of no heading without an axis.

    Raises:
        PlotError: as for `grid_tables`, or the axis is over numbers of the merge.
    """
    for change in _or_none(deep):
        variant = Variant(numbers={}, suite=suite)
        changed = variant if change is None else change.applied(variant)
        yield _label(change), shown(changed.suite, images)


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


def _cell(start: Variant, changes: Sequence[Change | None], images: int, blueprint: Blueprint) -> Cell:
    variant = start
    for change in changes:
        variant = variant if change is None else change.applied(variant)
    return Cell(
        label=" · ".join(change.label for change in reversed(changes) if change is not None),
        recipe=blueprint.recipe(variant.numbers),
        suite=shown(variant.suite, images),
    )
