"""The pictures of a plot's page: PNG as they were rendered, or JPEG and smaller where the page would be too large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image
from torch import Tensor

from optimizer.plot.kept import KeptCells
from optimizer.plot.results import CellResult, picture
from optimizer.plot.tables import Identity
from optimizer.rendering.contact_sheet import to_picture
from optimizer.report.html import data_url
from optimizer.report.pictures import PAGE_BYTES
from optimizer.report.pictures import STEPS as REPORT_STEPS
from studies.files.jpeg import encode_jpeg
from studies.files.png import encode_png

PICTURE_BYTES: Final = PAGE_BYTES * 3 // 4 - 500_000  # of all pictures before base64; the rest is for text
# (longer side in pixels, JPEG quality) of pictures that together would make the page too large as PNG: the first with
# which they do not, in which any has its own size. The last is small enough for the most cells that a plot has.
STEPS: Final = ((1 << 20, 90), *REPORT_STEPS, (192, 70), (128, 68), (96, 66))
SAMPLE: Final = 8  # pictures by which it is guessed whether all fit
LEAST_SHOWN: Final = 144  # CSS pixels of the longer side of a picture in a table
MOST_SHOWN: Final = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPicture:
    """A picture of the page."""

    url: str  # data URL
    width: int  # in pixels
    height: int
    shown: int  # its width on the page, in CSS pixels: a small one is shown larger than it is, a large one smaller

    @classmethod
    def of(cls, size: tuple[int, int], url: str) -> ShownPicture:
        """Return a picture of a width and height in pixels as it is shown."""
        width, height = size
        longer = max(height, width)
        scale = max(LEAST_SHOWN, min(longer, MOST_SHOWN)) / longer
        return cls(url=url, width=width, height=height, shown=round(scale * width))


def shown_pictures(
    results: Mapping[Identity, CellResult], kept: KeptCells, room: int = PICTURE_BYTES
) -> tuple[dict[Identity, ShownPicture], tuple[str, ...]]:
    """Return the pictures of a page, and a note if they are not shown as they are.

    Files are read anew for every step that is tried, so that all of them are never in memory together.

    Args:
        room: bytes that they may have together, before base64.
    """
    pngs = _pngs(results, kept, room)
    if pngs is not None:
        return pngs, ()
    sample = dict(list(results.items())[:: -(-len(results) // SAMPLE)])
    for step in STEPS:
        if step != STEPS[-1] and _size(_jpegs(sample, kept, step)) * len(results) > room * len(sample):
            continue
        jpegs = _jpegs(results, kept, step)
        if _size(jpegs) <= room:
            break
    side, quality = step
    made_smaller = any(max(each.image_size) > side for each in jpegs.values())
    size = f" of at most {side} pixels" if made_smaller else ""
    note = f"Pictures are JPEG{size}, quality {quality}, to keep the page small."
    shown = {key: ShownPicture.of(each.image_size, data_url(each.content, "jpeg")) for key, each in jpegs.items()}
    return shown, (note,)


def _pngs(results: Mapping[Identity, CellResult], kept: KeptCells, room: int) -> dict[Identity, ShownPicture] | None:
    """Return the pictures of a page as PNG; None where they are too large."""
    shown, size = {}, 0
    for identity, image in _images(results, kept):
        content = encode_png(image.numpy())
        size += len(content)
        if size > room:
            return None
        shown[identity] = ShownPicture.of((image.shape[2], image.shape[1]), data_url(content, "png"))
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jpeg:
    """A picture as JPEG."""

    content: bytes
    image_size: tuple[int, int]  # width and height in pixels, before it was made smaller


def _jpegs(results: Mapping[Identity, CellResult], kept: KeptCells, step: tuple[int, int]) -> dict[Identity, _Jpeg]:
    side, quality = step
    made = {}
    for identity, image in _images(results, kept):
        picture = to_picture(image)
        image_size = picture.size
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        made[identity] = _Jpeg(content=encode_jpeg(picture, quality), image_size=image_size)
    return made


def _size(jpegs: Mapping[Identity, _Jpeg]) -> int:
    return sum(len(each.content) for each in jpegs.values())


def _images(results: Mapping[Identity, CellResult], kept: KeptCells) -> Iterator[tuple[Identity, Tensor]]:
    """Yield the picture of every cell that has one, uint8 [3, h, w]."""
    for identity, result in results.items():
        image = picture(result, kept)
        if image is not None:
            yield identity, image
