"""A bracket as one HTML page in the look of a study's report: it needs nothing from elsewhere, and has no script."""

from __future__ import annotations

import base64
import io
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from basics.texts import visible
from optimizer.bracket.board import Board
from optimizer.rendering.contact_sheet import to_picture

LONGER_SIDE: Final = 320  # of an image on the page, in pixels; smaller ones stay as they are
QUALITY: Final = 88  # of JPEG


def bracket_page(board: Board, notes: tuple[str, ...] = ()) -> str:
    """Return a bracket that is over as HTML.

    Args:
        notes: what else the reader should know, one line each.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("optimizer.bracket"), PackageLoader("optimizer.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["data_url"] = data_url
    styles = "".join(_source(environment, name) for name in ("style.css", "bracket.css"))
    style = Markup(styles)  # noqa: S704 - our own files
    return environment.get_template("bracket.html.j2").render(board=board, notes=notes, style=style)


def data_url(image: Tensor) -> str:
    """Return an image, uint8 [3, h, w], as a data URL: a JPEG that is made smaller if it is large."""
    picture = to_picture(image)
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE))
    with io.BytesIO() as buffer:
        picture.save(buffer, format="JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None  # noqa: S101 - it has one
    return environment.loader.get_source(environment, name)[0]
