"""Contact sheets: the images of one trial, or of several side by side, on one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from basics.texts import visible

CELL = 128  # longer side of a picture on a sheet, in pixels
MARGIN = 8
CAPTION_LINES = 2
FONT_SIZE = 11
TITLE_SIZE = 15
INK, PAPER = "#202124", "#ffffff"


def to_picture(image: Tensor) -> Image.Image:
    """Convert a uint8 [3, h, w] image to a PIL image."""
    return Image.merge("RGB", [Image.fromarray(channel) for channel in image.contiguous().numpy()])


def thumbnail(image: Tensor) -> Tensor:
    """Shrink a uint8 [3, h, w] image to its size on a sheet, so that it takes little memory until then."""
    return torch.from_numpy(np.array(_scaled_to_cell(image))).permute(2, 0, 1)


def contact_sheet(title: str, images: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """Draw one trial: every item in a grid, with its prompt below.

    Args:
        images: uint8 [3, h, w], in item order.
        captions: one for each image.
    """
    columns = min(8, len(images))
    cell_height = CELL + CAPTION_LINES * (FONT_SIZE + 3) + MARGIN
    rows = -(-len(images) // columns)
    sheet = _paper(columns * (CELL + MARGIN) + MARGIN, _title_height() + rows * cell_height, title)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x = MARGIN + index % columns * (CELL + MARGIN)
        y = _title_height() + index // columns * cell_height
        _paste(sheet, image, x, y)
        _caption(sheet, caption, x, y + CELL + 2)
    return sheet


def comparison_sheet(
    title: str, columns: Sequence[tuple[str, Sequence[Tensor]]], captions: Sequence[str], *, blocks: int = 2
) -> Image.Image:
    """Draw several trials side by side, one row for each item: parent A | parent B | best.

    Args:
        columns: (heading, images in item order) of each trial.
        captions: one for each row.
        blocks: into how many tables side by side the rows are divided, which keeps the sheet from getting too long.
    """
    caption_width = 110
    width = caption_width + len(columns) * (CELL + MARGIN) + MARGIN
    rows = -(-len(captions) // blocks)
    top = _title_height() + TITLE_SIZE + MARGIN
    sheet = _paper(blocks * width + MARGIN, top + rows * (CELL + MARGIN), title)
    draw, heading_font = ImageDraw.Draw(sheet), _font(FONT_SIZE + 2)
    for block in range(blocks):
        for column, (heading, _) in enumerate(columns):
            x = MARGIN + block * width + caption_width + column * (CELL + MARGIN)
            draw.text((x, _title_height()), visible(heading), fill=INK, font=heading_font)
    for index, caption in enumerate(captions):
        x, y = MARGIN + index // rows * width, top + index % rows * (CELL + MARGIN)
        _caption(sheet, caption, x, y + CELL // 2 - FONT_SIZE, width=15, lines=5)
        for column, (_, images) in enumerate(columns):
            _paste(sheet, images[index], x + caption_width + column * (CELL + MARGIN), y)
    return sheet


def _paper(width: int, height: int, title: str) -> Image.Image:
    sheet = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), visible(title), fill=INK, font=_font(TITLE_SIZE))
    return sheet


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font; cached, because Pillow unpacks it at every call."""
    return ImageFont.load_default(size)


def _title_height() -> int:
    return TITLE_SIZE + 2 * MARGIN


def _paste(sheet: Image.Image, image: Tensor, x: int, y: int) -> None:
    picture = _scaled_to_cell(image)
    sheet.paste(picture, (x + (CELL - picture.width) // 2, y))


def _scaled_to_cell(image: Tensor) -> Image.Image:
    """Scale the longer side to `CELL`; for speed, a far larger image is first averaged to about twice that size."""
    picture = to_picture(image)
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _caption(sheet: Image.Image, text: str, x: int, y: int, *, width: int = 20, lines: int = CAPTION_LINES) -> None:
    wrapped = textwrap.wrap(visible(text), width)
    if len(wrapped) > lines:
        wrapped = [
            *wrapped[: lines - 1],
            textwrap.shorten(" ".join(wrapped[lines - 1 :]), width, placeholder="…"),
        ]
    ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(wrapped), fill=INK, font=_font(FONT_SIZE), spacing=2)
