"""The fonts of pictures with text: Pillow's own, and for letters that it does not have, one that has them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# matplotlib brings it along: Latin, Greek and Cyrillic letters, and signs such as a dash.
DEJAVU: Final = Path("mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
# Fonts with Chinese, Japanese or Korean letters as systems have them; Pillow looks for them in the system's folders.
OF_SYSTEM: Final = (
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "NotoSansSC-Regular.otf", "SourceHanSans-Regular.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("msyh.ttc", "msgothic.ttc", "YuGothM.ttc", "malgun.ttf"),
)


def font_of(text: str, size: int) -> Font:
    """Return a font of a size in pixels that has all letters of a text; without such a one, that with the most."""
    if text.isascii():
        return _pillows(size)
    letters = sorted({letter for letter in text if letter.isprintable() and not letter.isspace()})
    lacking = dict[str, int]()
    for name in (_dejavu(), *OF_SYSTEM):
        font = _named(name, size)
        if font is not None:
            lacking[name] = sum(not _has(name, letter) for letter in letters)
            if not lacking[name]:
                return font
    best = _named(min(lacking, key=lambda name: lacking[name]), size) if lacking else None
    return best or _pillows(size)


def mean_width(text: str, size: int) -> float:
    """Return how wide a letter of a text is on average, in pixels."""
    usual = 0.55 * size
    return usual if text.isascii() else max(usual, font_of(text, size).getlength(text) / len(text))


@cache
def _pillows(size: int) -> Font:
    """Return Pillow's own font, which has the letters of ASCII; cached, because Pillow unpacks it at every call."""
    return ImageFont.load_default(size)


def _dejavu() -> str:
    found = find_spec("matplotlib")
    folders = [] if found is None else found.submodule_search_locations or []
    return str(Path(*folders[:1], DEJAVU))


@cache
def _named(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font by its path or file name; None where it is not there."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@cache
def _has(name: str, letter: str) -> bool:
    """Return whether a font that is there has a letter: else it draws what it draws for a sign that no font has."""
    font = ImageFont.truetype(name, 20)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
