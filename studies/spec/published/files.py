"""Settings out of files: PNG (tEXt, iTXt, zTXt), JPEG and WebP (EXIF), and text files.

Pillow opens pictures and unpacks their texts; pixels are never decoded. How much is read is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image

from basics import foreign
from basics.messages import first_line
from studies.spec.published.comfyui import parse_graph
from studies.spec.published.infotext import is_infotext, parse_infotext
from studies.spec.published.others import parse_invokeai, parse_swarmui
from studies.spec.published.settings import PublishedError, PublishedSettings, RawSettings, checked

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
SUFFIXES: Final = PICTURES | {".txt"}
TEXT_CHARACTERS: Final = 1_000_000  # of all texts of one file; a large ComfyUI workflow has 300,000
FILE_BYTES: Final = 256_000_000
FORMATS: Final = ("PNG", "JPEG", "WEBP")
UNREADABLE: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
UNICODE: Final = b"UNICODE\0"
ASCII: Final = b"ASCII\0\0\0"


def read_published(path: Path) -> PublishedSettings:
    """Read the settings of a picture or a text file.

    Raises:
        PublishedError: there are none, they cannot be used, or the file is damaged.
    """
    try:
        return checked(_raw(_texts(path)))
    except PublishedError as error:
        raise PublishedError(f"{path.name}: {error}") from error


def _texts(path: Path) -> dict[str, str]:
    """Return the texts of a file by their names.

    Raises:
        PublishedError: the file cannot be read, or has more text than any program writes.
    """
    try:
        if path.suffix.lower() == ".txt":
            texts = {"parameters": foreign.read_bytes(path, 4 * TEXT_CHARACTERS).decode("utf-8-sig")}
        else:
            texts = _texts_of_picture(path)
    except FileNotFoundError:
        raise PublishedError("there is no such file") from None
    except UNREADABLE as error:
        raise PublishedError(f"it cannot be read: {first_line(error)}") from error
    if sum(map(len, texts.values())) > TEXT_CHARACTERS:
        raise PublishedError(f"it has more than {TEXT_CHARACTERS:,} characters of text")
    return texts


def _texts_of_picture(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise PublishedError("it is no file") if path.exists() else FileNotFoundError(path)
    if path.stat().st_size > FILE_BYTES:
        raise PublishedError(f"it has more than {FILE_BYTES / 1e6:g} MB")
    with Image.open(path, formats=FORMATS) as picture:
        texts = {str(name): str(value) for name, value in picture.info.items() if isinstance(value, str)}
        exif = picture.getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        texts.setdefault("parameters", _user_comment(comment))
    elif isinstance(comment, str):
        texts.setdefault("parameters", comment)
    for tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.ImageDescription):  # ComfyUI: "prompt:{...}"
        name, _, value = str(exif.get(tag, "")).partition(":")
        if name in {"prompt", "workflow"}:
            texts.setdefault(name, value.rstrip("\0"))
    return texts


def _user_comment(content: bytes) -> str:
    """Decode an EXIF comment, which begins with the name of its encoding; UTF-16 has either order of bytes."""
    if content.startswith(UNICODE):
        text = content[len(UNICODE) :]
        big = text[0::2].count(0) >= text[1::2].count(0)
        return text.decode("utf-16-be" if big else "utf-16-le", errors="replace").rstrip("\0")
    return content.removeprefix(ASCII).removeprefix(b"\0" * 8).decode("utf-8", errors="replace").rstrip("\0")


def _raw(texts: Mapping[str, str]) -> RawSettings:
    """Tell which program wrote the texts, and read them.

    Raises:
        PublishedError: none that is known.
    """
    for name in ("invokeai_metadata", "sd-metadata"):
        if name in texts:
            return parse_invokeai(_json(texts[name], name))
    parameters = texts.get("parameters", "")
    if "sui_image_params" in parameters:
        data = _json(parameters, "parameters")
        return parse_swarmui(data.get("sui_image_params") if isinstance(data, Mapping) else None)
    if is_infotext(parameters):
        return parse_infotext(parameters)
    if "prompt" in texts:
        return parse_graph(_json(texts["prompt"], "prompt"))
    if "workflow" in texts:
        raise PublishedError("it has ComfyUI's workflow without the `prompt` that was run, so its values are not known")
    raise PublishedError("no generation settings in it (A1111, Forge, ComfyUI, InvokeAI, SwarmUI or ours)")


def _json(text: str, name: str) -> Any:
    try:
        return foreign.parse_json(text, infinite=True)  # ComfyUI writes `is_changed: [NaN]`
    except ValueError as error:
        raise PublishedError(f"its {name} is not JSON: {first_line(error)}") from error
