"""A plot as one HTML page in the look of a study's report: it needs nothing from elsewhere.

A policy in the page forbids every request and every script but its own, so a prompt could do nothing even if its
escaping failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimizer.plot.kept import KeptCells
from optimizer.plot.pictures import ShownPicture, shown_pictures
from optimizer.plot.results import CellResult, PlotTable, lines_below
from optimizer.plot.tables import Cell, Identity
from optimizer.report.html import digest_of, page_environment, source_of
from scorers.protocol import ScorerInfo
from studies.recipe.recipe import Recipe
from studies.spec.suite import SuiteSettings

SMALL: Final = 192  # pixels of the longer side, up to which pictures are shown with hard edges
SHOWN_IMAGES: Final = 12  # of a cell, in the list of what it shows

RecipeText = Callable[[Recipe], str]
"""Writes the recipe file of a cell's merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLine:
    """A line below a picture, as the page shows it."""

    text: str
    best: bool  # whether it is the best value of its scorer in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCell:
    """A cell as the page shows it."""

    label: str
    picture: ShownPicture | None
    failure: str
    lines: tuple[PageLine, ...]
    share: float | None  # of the largest distance in its table; None without a distance
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """A table as the page shows it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[PageCell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotFacts:
    """What the page says besides its tables."""

    title: str
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def plot_page(
    said: PlotFacts,
    tables: Sequence[PlotTable],
    kept: KeptCells,
    infos: Mapping[str, ScorerInfo],
    recipe_text: RecipeText,
) -> str:
    """Return a plot as HTML: its pictures are PNG, or JPEG and smaller where they would make the page too large."""
    every = {cell.identity: drawn.result(cell) for drawn in tables for cell in drawn.table.every}
    pictures, note = shown_pictures(every, kept)
    shown = [
        PageTable(
            title=drawn.table.title,
            columns=drawn.table.columns,
            rows=drawn.table.rows,
            cells=tuple(
                tuple(_page_cell(drawn, cell, pictures, infos, recipe_text) for cell in row)
                for row in drawn.table.cells
            ),
        )
        for drawn in tables
    ]
    environment = page_environment("optimizer.plot")
    script = source_of(environment, "plot.js")
    longest = max((max(each.width, each.height) for each in pictures.values()), default=0)
    return environment.get_template("plot.html.j2").render(
        title=said.title,
        facts=said.facts,
        notes=(*said.notes, *note),
        images=_images_of(tables[0].table.every[0].suite),
        tables=shown,
        small=longest <= SMALL,
        style=source_of(environment, "style.css", "plot.css"),
        script=script,
        script_digest=digest_of(script),
    )


def _page_cell(
    drawn: PlotTable,
    cell: Cell,
    pictures: Mapping[Identity, ShownPicture],
    infos: Mapping[str, ScorerInfo],
    recipe_text: RecipeText,
) -> PageCell:
    result, farthest = drawn.result(cell), drawn.farthest
    return PageCell(
        label=cell.label or cell.caption or drawn.table.title,
        picture=pictures.get(cell.identity),
        failure=result.why_no_picture,
        lines=_lines(drawn, cell, result, infos),
        share=None if result.distance is None or not farthest else result.distance.levels / farthest,
        recipe=recipe_text(cell.recipe),
    )


def _lines(drawn: PlotTable, cell: Cell, result: CellResult, infos: Mapping[str, ScorerInfo]) -> tuple[PageLine, ...]:
    """Return the lines below a picture."""
    return tuple(
        PageLine(text=line.text, best=line.scorer is not None and _is_best(drawn, result, line.scorer, infos))
        for line in lines_below(cell, result, infos)
    )


def _is_best(drawn: PlotTable, result: CellResult, scorer: str, infos: Mapping[str, ScorerInfo]) -> bool:
    value = result.scores[scorer]
    return value is not None and value == drawn.best(scorer, infos[scorer])


def _images_of(suite: SuiteSettings) -> tuple[str, ...]:
    """Return what the images of a cell are, one line each."""
    items = suite.items()
    lines = [
        f"{item.prompt} · seed {item.seed} · {item.width}x{item.height} · {item.sampling.sampler}, "
        f"{item.sampling.schedule}, {item.sampling.steps} steps, cfg {item.sampling.cfg:g}"
        for item in items[:SHOWN_IMAGES]
    ]
    return (*lines, *([f"and {len(items) - SHOWN_IMAGES} more"] if len(items) > SHOWN_IMAGES else []))
