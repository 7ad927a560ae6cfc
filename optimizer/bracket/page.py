"""A bracket as one HTML page in the look of a study's report: it needs nothing from elsewhere, and has no script."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from optimizer.bracket.board import Board
from optimizer.rendering.contact_sheet import to_picture
from optimizer.report.html import data_url, page_environment, source_of
from studies.files.jpeg import encode_jpeg

LONGER_SIDE: Final = 320  # of an image on the page, in pixels; smaller ones stay as they are
QUALITY: Final = 88  # of JPEG


def bracket_page(board: Board, notes: tuple[str, ...] = ()) -> str:
    """Return a bracket that is over as HTML.

    Args:
        notes: what else the reader should know, one line each.
    """
    environment = page_environment("optimizer.bracket")
    environment.filters["data_url"] = small_picture
    style = source_of(environment, "style.css", "bracket.css")
    return environment.get_template("bracket.html.j2").render(board=board, notes=notes, style=style)


def small_picture(image: Tensor) -> str:
    """Return an image, uint8 [3, h, w], as a data URL: a JPEG that is made smaller if it is large."""
    picture = to_picture(image)
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE))
    return data_url(encode_jpeg(picture, QUALITY), "jpeg")
