"""Contact sheets: the images of one trial, of several side by side, or tables of many merges, on one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from basics.texts import visible
from optimizer.rendering.fonts import font_of, mean_width
from studies.spec.suite import SuiteItem

# The longer side of a picture on a sheet, in pixels: half a render's, but so large that a face can be judged.
SMALLEST_CELL: Final = 128
CROWDED_CELL: Final = 256  # the largest on a sheet of many pictures
LARGEST_CELL: Final = 384
CROWD: Final = 32  # pictures
MARGIN: Final = 8
CAPTION_LINES: Final = 3
HEADING_LINES: Final = 4
ROW_LINES: Final = 9  # of a row's caption
TITLE_SIZE: Final = 15
INK, PAPER = "#202124", "#ffffff"


def row_captions(items: Iterable[SuiteItem]) -> list[str]:
    """Return what stands beside each item's pictures: the prompt and the seed."""
    return [f"{item.prompt}\nseed {item.seed}" for item in items]


def to_picture(image: Tensor) -> Image.Image:
    """Convert a uint8 [3, h, w] image to a PIL image."""
    return Image.merge("RGB", [Image.fromarray(channel) for channel in image.contiguous().numpy()])


def to_tensor(picture: Image.Image) -> Tensor:
    """Convert an RGB PIL image to a uint8 [3, h, w] image."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def cell_size(longer_side: int, pictures: int) -> int:
    """Return the longer side of a picture on a sheet, in pixels.

    Args:
        longer_side: of the renders, in pixels.
        pictures: how many the sheet has.
    """
    return max(SMALLEST_CELL, min(longer_side // 2, LARGEST_CELL if pictures <= CROWD else CROWDED_CELL))


def thumbnail(image: Tensor, pictures: int) -> Tensor:
    """Shrink a uint8 [3, h, w] image to its size on a sheet of so many, so that it takes little memory until then."""
    return to_tensor(scaled_picture(image, cell_size(max(image.shape), pictures)))


def contact_sheet(title: str, images: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """Draw one trial: every item in a grid, with its caption below.

    Args:
        images: uint8 [3, h, w], in item order.
        captions: one for each image, such as its prompt and seed.
    """
    pictures = [scaled_picture(image, _cell_of(images)) for image in images]
    width, height = _box(pictures)
    columns, size = min(8, len(images)), _font_size(width)
    row = height + CAPTION_LINES * (size + 3) + MARGIN
    sheet = _paper(columns * (width + MARGIN) + MARGIN, _title_height() + -(-len(images) // columns) * row, title)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = MARGIN + index % columns * (width + MARGIN)
        y = _title_height() + index // columns * row
        sheet.paste(picture, (x + (width - picture.width) // 2, y))
        _write(sheet, caption, (x, y + height + 2), width, CAPTION_LINES)
    return sheet


def comparison_sheet(
    title: str,
    columns: Sequence[tuple[str, Sequence[Tensor]]],
    captions: Sequence[str],
    *,
    tables: int = 2,
    thumbnails: bool = False,
) -> Image.Image:
    """Draw several trials side by side, one row for each item: parent A | parent B | best.

    Args:
        columns: (heading, images in item order) of each trial.
        captions: one for each row.
        tables: into how many, side by side, the rows are divided, which keeps the sheet from getting too long.
        thumbnails: whether the images have their size on the sheet already.
    """
    every = [image for _, images in columns for image in images]
    cell = _longest(every) if thumbnails else _cell_of(every)
    scaled = [[scaled_picture(image, cell) for image in images] for _, images in columns]
    width, height = _box([picture for pictures in scaled for picture in pictures])
    beside = max(110, width // 2)  # of a row's caption
    table_width = beside + len(columns) * (width + MARGIN) + MARGIN
    rows = -(-len(captions) // tables)
    top = _title_height() + HEADING_LINES * (_font_size(width) + 3) + MARGIN
    sheet = _paper(tables * table_width + MARGIN, top + rows * (height + MARGIN), title)
    for table in range(tables):
        for column, (heading, _) in enumerate(columns):
            x = MARGIN + table * table_width + beside + column * (width + MARGIN)
            _write(sheet, heading, (x, _title_height()), width, HEADING_LINES)
    for index, caption in enumerate(captions):
        x, y = MARGIN + index // rows * table_width, top + index % rows * (height + MARGIN)
        _write(sheet, caption, (x, y), beside - MARGIN, min(ROW_LINES, height // (_font_size(width) + 3)), width)
        for column, pictures in enumerate(scaled):
            picture = pictures[index]
            left = x + beside + column * (width + MARGIN) + (width - picture.width) // 2
            sheet.paste(picture, (left, y))
    return sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetCell:
    """A cell of a table."""

    image: Tensor | None  # uint8 [3, h, w], as large as it is shown; None: there is none
    lines: tuple[str, ...]  # below it; in its place where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetTable:
    """A table of pictures."""

    title: str  # none if it is empty
    columns: tuple[str, ...]  # headings; none at all if it is empty
    rows: tuple[str, ...]  # headings beside the rows; none at all if it is empty
    cells: tuple[tuple[SheetCell, ...], ...]  # by row; the last row may be shorter


def table_sheet(title: str, tables: Sequence[SheetTable]) -> Image.Image:
    """Draw tables below each other, with their headings, and with lines below each picture."""
    pictures = [cell.image for table in tables for row in table.cells for cell in row if cell.image is not None]
    box = (max((image.shape[2] for image in pictures), default=SMALLEST_CELL), _tallest(pictures))
    layouts = [_TableLayout.of(table, box) for table in tables]
    width = max(*(layout.width for layout in layouts), int(1.1 * mean_width(title, TITLE_SIZE) * len(title)))
    sheet = _paper(width + MARGIN, _title_height() + sum(layout.height for layout in layouts), title)
    top = _title_height()
    for table, layout in zip(tables, layouts, strict=True):
        _draw_table(sheet, table, layout, top)
        top += layout.height
    return sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableLayout:
    """Where the parts of a table are, in pixels."""

    box: tuple[int, int]  # width and height of a picture
    beside: int  # width of the rows' headings
    title: int  # height
    headings: int  # height of the columns' headings
    below: int  # height of the lines below a picture
    width: int
    height: int

    @classmethod
    def of(cls, table: SheetTable, box: tuple[int, int]) -> _TableLayout:
        beside = max(110, box[0] // 2) if table.rows else 0
        width = MARGIN + beside + max(len(row) for row in table.cells) * (box[0] + MARGIN)
        line = _font_size(box[0]) + 3
        title = _line_count([table.title], width - 2 * MARGIN, box[0]) * line + MARGIN if table.title else 0
        headings = min(HEADING_LINES, max((_line_count([each], box[0], box[0]) for each in table.columns), default=0))
        shown = [cell.lines for row in table.cells for cell in row if cell.image is not None]
        below = max((_line_count(lines, box[0], box[0]) for lines in shown), default=0)
        return cls(
            box=box,
            beside=beside,
            title=title,
            headings=headings * line,
            below=below * line,
            width=width,
            height=title + headings * line + len(table.cells) * (box[1] + below * line + MARGIN) + MARGIN,
        )


def _draw_table(sheet: Image.Image, table: SheetTable, layout: _TableLayout, top: int) -> None:
    """Draw a table.

    Args:
        top: its upper edge in pixels.
    """
    width, height = layout.box
    if table.title:
        _write(sheet, table.title, (MARGIN, top), layout.width - 2 * MARGIN, HEADING_LINES, width)
    for column, heading in enumerate(table.columns):
        x = MARGIN + layout.beside + column * (width + MARGIN)
        _write(sheet, heading, (x, top + layout.title), width, HEADING_LINES)
    for index, row in enumerate(table.cells):
        y = top + layout.title + layout.headings + index * (height + layout.below + MARGIN)
        if table.rows:
            _write(sheet, table.rows[index], (MARGIN, y), layout.beside - MARGIN, ROW_LINES, width)
        for column, cell in enumerate(row):
            _draw_cell(sheet, cell, (MARGIN + layout.beside + column * (width + MARGIN), y), layout.box)


def _draw_cell(sheet: Image.Image, cell: SheetCell, at: tuple[int, int], box: tuple[int, int]) -> None:
    (x, y), (width, height) = at, box
    if cell.image is None:
        _write(sheet, "\n".join(cell.lines), at, width, height // (_font_size(width) + 3))
        return
    picture = to_picture(cell.image)
    sheet.paste(picture, (x + (width - picture.width) // 2, y))
    for line in _all_lines(cell.lines, width, width):
        ImageDraw.Draw(sheet).text((x, y + height + 2), line, fill=INK, font=font_of(line, _font_size(width)))
        y += _font_size(width) + 3


def _all_lines(texts: Iterable[str], width: int, cell_width: int) -> list[str]:
    """Return the lines of some texts, each wrapped to a width in pixels."""
    return [line for text in texts for line in _wrapped(visible(text), width, _font_size(cell_width))]


def _line_count(texts: Iterable[str], width: int, cell_width: int) -> int:
    return len(_all_lines(texts, width, cell_width))


def _tallest(pictures: Sequence[Tensor]) -> int:
    return max((image.shape[1] for image in pictures), default=SMALLEST_CELL)


def _cell_of(images: Sequence[Tensor]) -> int:
    return cell_size(_longest(images), len(images))


def _longest(images: Iterable[Tensor]) -> int:
    return max(max(image.shape) for image in images)


def _box(pictures: Iterable[Image.Image]) -> tuple[int, int]:
    """Return the width and height into which every picture fits."""
    sizes = [picture.size for picture in pictures]
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _paper(width: int, height: int, title: str) -> Image.Image:
    sheet = Image.new("RGB", (width, height), PAPER)
    shown = visible(title)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), shown, fill=INK, font=font_of(shown, TITLE_SIZE))
    return sheet


def _font_size(width: int) -> int:
    """Return the size of captions beside or below cells of a width."""
    return 11 if width < 200 else 14


def _title_height() -> int:
    return TITLE_SIZE + 2 * MARGIN


def scaled_picture(image: Tensor, cell: int) -> Image.Image:
    """Scale an image, uint8 [3, h, w], so that its longer side is `cell`.

    For speed, a far larger image is first averaged to about twice that size.
    """
    picture = to_picture(image)
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _write(
    sheet: Image.Image, text: str, at: tuple[int, int], width: int, lines: int, cell_width: int | None = None
) -> None:
    """Write a text, wrapped to a width, of which what goes beyond a number of lines is left out before its last line.

    Args:
        lines: at most, of the wrapped text.
        at: the upper left corner, in pixels.
        width: in pixels.
        cell_width: of the pictures, if that is not the text's.
    """
    size = _font_size(cell_width or width)
    *first, last = [_wrapped(line, width, size) for line in visible(text).splitlines() or [""]]
    room = max(1, lines - len(last)) if first else lines
    kept = _shortened([line for each in (first or [last]) for line in each], room)
    shown = [*kept, *last] if first else kept
    whole = "\n".join(shown)
    ImageDraw.Draw(sheet).multiline_text(at, whole, fill=INK, font=font_of(whole, size), spacing=3)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """Wrap a line to a width in pixels, by the mean width of its letters."""
    return textwrap.wrap(text, max(4, int(width / mean_width(text, size)))) or [""]


def _shortened(lines: Sequence[str], most: int) -> list[str]:
    return list(lines) if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][:-3]}..."]
