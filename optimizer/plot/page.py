"""A plot as one HTML page in the look of a study's report: it needs nothing from elsewhere.

A policy in the page forbids every request and every script but its own, so a prompt could do nothing even if its
escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from basics.texts import visible
from optimizer.plot.kept import KeptCells
from optimizer.plot.results import CellResult, PlotTable, lines_below, picture
from optimizer.plot.tables import Cell
from optimizer.rendering.contact_sheet import to_picture
from optimizer.report.pictures import PAGE_BYTES
from scorers.protocol import ScorerInfo
from studies.files.png import encode_png
from studies.recipe.recipe import Recipe
from studies.spec.suite import SuiteSettings

PICTURE_BYTES: Final = PAGE_BYTES * 3 // 4 - 500_000  # of all pictures before base64; the rest is for text
JPEG_QUALITY: Final = 90  # of pictures that together would make the page too large as PNG
SMALL: Final = 192  # pixels of the longer side, up to which pictures are shown with hard edges
LEAST_SHOWN: Final = 144  # CSS pixels of the longer side of a picture in a table
MOST_SHOWN: Final = 320
SHOWN_IMAGES: Final = 12  # of a cell, in the list of what it shows

RecipeText = Callable[[Recipe], str]
"""Writes the recipe file of a cell's merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionLine:
    """A line below a picture."""

    text: str
    best: bool  # whether it is the best value of its scorer in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCell:
    """A cell as the page shows it."""

    label: str
    url: str | None  # data URL; None if it has no picture
    width: int  # of the picture, in pixels
    height: int
    shown: int  # its width on the page, in CSS pixels
    failure: str
    lines: tuple[CaptionLine, ...]
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
    """Return a plot as HTML: its pictures are PNG, or JPEG where they would make the page too large."""
    every = {cell.identity: drawn.result(cell) for drawn in tables for cell in drawn.table.every}
    as_png = sum(_png_bytes(result, kept) for result in every.values()) <= PICTURE_BYTES
    shown = [
        PageTable(
            title=drawn.table.title,
            columns=drawn.table.columns,
            rows=drawn.table.rows,
            cells=tuple(
                tuple(_page_cell(drawn, cell, kept, infos, recipe_text, as_png=as_png) for cell in row)
                for row in drawn.table.cells
            ),
        )
        for drawn in tables
    ]
    environment = _environment()
    script = Markup(_source(environment, "plot.js"))  # noqa: S704 - our own file
    longest = max((max(cell.width, cell.height) for table in shown for row in table.cells for cell in row), default=0)
    return environment.get_template("plot.html.j2").render(
        title=said.title,
        facts=said.facts,
        notes=(
            *said.notes,
            *(() if as_png else (f"Pictures are JPEG, quality {JPEG_QUALITY}, to keep the page small.",)),
        ),
        images=_images_of(tables[0].table.every[0].suite),
        tables=shown,
        small=longest <= SMALL,
        style=Markup(_source(environment, "style.css") + _source(environment, "plot.css")),  # noqa: S704 - as well
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    """Return where templates come from, the report's among them: what they show is escaped and visible."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("optimizer.plot"), PackageLoader("optimizer.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None  # noqa: S101 - `_environment` gives one
    return environment.loader.get_source(environment, name)[0]


def _page_cell(
    drawn: PlotTable,
    cell: Cell,
    kept: KeptCells,
    infos: Mapping[str, ScorerInfo],
    recipe_text: RecipeText,
    *,
    as_png: bool,
) -> PageCell:
    result = drawn.result(cell)
    image = picture(result, kept)
    farthest = drawn.farthest
    return PageCell(
        label=cell.label or cell.caption or drawn.table.title,
        url=None if image is None else _url(image, as_png=as_png),
        width=0 if image is None else image.shape[2],
        height=0 if image is None else image.shape[1],
        shown=0 if image is None else _shown_width(image),
        failure=f"failed: {result.failure or 'its images are gone'}",
        lines=_lines(drawn, cell, result, infos),
        share=None if result.distance is None or not farthest else result.distance.levels / farthest,
        recipe=recipe_text(cell.recipe),
    )


def _lines(
    drawn: PlotTable, cell: Cell, result: CellResult, infos: Mapping[str, ScorerInfo]
) -> tuple[CaptionLine, ...]:
    """Return the lines below a picture; scores come last but for why there are none."""
    texts = lines_below(cell, result, infos, len(cell.suite.items()))
    before = len(texts) - len(result.scores) - (result.unscored is not None)
    best = [value is not None and value == drawn.best(name, infos[name]) for name, value in result.scores.items()]
    marks = [*[False] * before, *best, *[False] * (result.unscored is not None)]
    return tuple(CaptionLine(text=text, best=mark) for text, mark in zip(texts, marks, strict=True))


def _shown_width(image: Tensor) -> int:
    """Return how wide a picture, [3, h, w], is shown: a small one larger than it is, a large one smaller."""
    scale = max(LEAST_SHOWN, min(max(image.shape), MOST_SHOWN)) / max(image.shape)
    return round(scale * image.shape[2])


def _png_bytes(result: CellResult, kept: KeptCells) -> int:
    image = picture(result, kept)
    return 0 if image is None else len(encode_png(image.numpy()))


def _url(image: Tensor, *, as_png: bool) -> str:
    """Return an image, uint8 [3, h, w], as a data URL."""
    if as_png:
        return f"data:image/png;base64,{base64.b64encode(encode_png(image.numpy())).decode()}"
    with io.BytesIO() as buffer:
        to_picture(image).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _images_of(suite: SuiteSettings) -> tuple[str, ...]:
    """Return what the images of a cell are, one line each."""
    items = suite.items()
    lines = [
        f"{item.prompt} · seed {item.seed} · {item.width}x{item.height} · {item.sampling.sampler}, "
        f"{item.sampling.schedule}, {item.sampling.steps} steps, cfg {item.sampling.cfg:g}"
        for item in items[:SHOWN_IMAGES]
    ]
    return (*lines, *([f"and {len(items) - SHOWN_IMAGES} more"] if len(items) > SHOWN_IMAGES else []))
