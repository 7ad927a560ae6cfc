"""Settings out of files: PNG (tEXt, iTXt, zTXt), JPEG and WebP (EXIF), and text files.

Pillow opens pictures and unpacks their texts; pixels are never decoded. How much is read is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image

from basics import foreign
from basics.messages import first_line
from basics.pictures import UNREADABLE
from studies.spec.published.comfyui import parse_graph
from studies.spec.published.fooocus import parse_fooocus
from studies.spec.published.infotext import is_infotext, parse_infotext
from studies.spec.published.invokeai import parse_invokeai
from studies.spec.published.novelai import parse_novelai
from studies.spec.published.settings import PublishedError, PublishedSettings, RawSettings, checked
from studies.spec.published.swarmui import parse_swarmui

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
SUFFIXES: Final = PICTURES | {".txt"}
TEXT_CHARACTERS: Final = 1_000_000  # of all texts of one file; a large ComfyUI workflow has 300,000
FILE_BYTES: Final = 256_000_000
FORMATS: Final = ("PNG", "JPEG", "WEBP")
NOVELAI: Final = "NovelAI"
UNICODE: Final = b"UNICODE\0"
ASCII: Final = b"ASCII\0\0\0"


def read_published(path: Path) -> PublishedSettings:
    """Read the settings of a picture or a text file.

    Raises:
        PublishedError: there are none, they cannot be used, or the file is damaged.
    """
    try:
        return checked(_raw(_content(path)))
    except PublishedError as error:
        raise PublishedError(f"{path.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What is read of a file."""

    texts: dict[str, str]  # by their names
    size: tuple[int, int] = (0, 0)  # of a picture in pixels, width and height


def _content(path: Path) -> _Content:
    """Return the texts of a file by their names, and the size of a picture.

    Raises:
        PublishedError: the file cannot be read, or has more text than any program writes.
    """
    try:
        if path.suffix.lower() == ".txt":
            content = _Content(texts={"parameters": foreign.read_bytes(path, 4 * TEXT_CHARACTERS).decode("utf-8-sig")})
        else:
            content = _of_picture(path)
    except FileNotFoundError:
        raise PublishedError("there is no such file") from None
    except UNREADABLE as error:
        raise PublishedError(f"it cannot be read: {first_line(error)}") from error
    if sum(map(len, content.texts.values())) > TEXT_CHARACTERS:
        raise PublishedError(f"it has more than {TEXT_CHARACTERS:,} characters of text")
    return content


def _of_picture(path: Path) -> _Content:
    if not path.is_file():
        raise PublishedError("it is no file") if path.exists() else FileNotFoundError(path)
    if path.stat().st_size > FILE_BYTES:
        raise PublishedError(f"it has more than {FILE_BYTES / 1e6:g} MB")
    with Image.open(path, formats=FORMATS) as picture:
        texts = {str(name): str(value) for name, value in picture.info.items() if isinstance(value, str)}
        exif, size = picture.getexif(), picture.size
    # Fooocus writes its comment beside the other tags instead of among those of the camera.
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment) or exif.get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        texts.setdefault("parameters", _user_comment(comment))
    elif isinstance(comment, str):
        texts.setdefault("parameters", comment)
    for tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.ImageDescription):  # ComfyUI: "prompt:{...}"
        name, _, value = str(exif.get(tag, "")).partition(":")
        if name in {"prompt", "workflow"}:
            texts.setdefault(name, value.rstrip("\0"))
    return _Content(texts=texts, size=size)


def _user_comment(content: bytes) -> str:
    """Decode an EXIF comment, which begins with the name of its encoding; UTF-16 has either order of bytes."""
    if content.startswith(UNICODE):
        text = content[len(UNICODE) :]
        big = text[0::2].count(0) >= text[1::2].count(0)
        return text.decode("utf-16-be" if big else "utf-16-le", errors="replace").rstrip("\0")
    return content.removeprefix(ASCII).removeprefix(b"\0" * 8).decode("utf-8", errors="replace").rstrip("\0")


def _raw(content: _Content) -> RawSettings:
    """Tell which program wrote the texts, and read them.

    Raises:
        PublishedError: none that is known.
    """
    texts = content.texts
    for name in ("invokeai_metadata", "sd-metadata"):
        if name in texts:
            return parse_invokeai(_json(texts[name], name))
    if texts.get("Software") == NOVELAI and "Comment" in texts:
        return parse_novelai(texts, _json(texts["Comment"], "Comment"), content.size)
    parameters = texts.get("parameters", "")
    if parameters.lstrip().startswith("{") and (found := _of_object(parameters, content.size)) is not None:
        return found
    if is_infotext(parameters):
        return parse_infotext(parameters)
    if "prompt" in texts:
        return parse_graph(_json(texts["prompt"], "prompt"))
    if "workflow" in texts:
        raise PublishedError("it has ComfyUI's workflow without the `prompt` that was run, so its values are not known")
    raise PublishedError(
        "no generation settings in it (A1111, Forge, ComfyUI, InvokeAI, SwarmUI, Fooocus, NovelAI or ours)"
    )


def _of_object(parameters: str, size: tuple[int, int]) -> RawSettings | None:
    """Read parameters that are a JSON object; None where they are none, or of no program that is known.

    Raises:
        PublishedError: it cannot be used.
    """
    if not any(name in parameters for name in ("sui_image_params", "base_model", NOVELAI)):
        return None  # a prompt of A1111 may begin with a brace
    try:
        data = _json(parameters, "parameters")
    except PublishedError:
        if is_infotext(parameters):
            return None
        raise
    if "sui_image_params" in data:
        return parse_swarmui(data["sui_image_params"])
    if "base_model" in data:
        return parse_fooocus(data)
    if data.get("Software") == NOVELAI:  # as it stands in its JPEG and WebP pictures
        comment = data.get("Comment")
        return parse_novelai(data, _json(comment, "Comment") if isinstance(comment, str) else comment, size)
    return None


def _json(text: str, name: str) -> Any:
    try:
        return foreign.parse_json(text, infinite=True)  # ComfyUI writes `is_changed: [NaN]`
    except ValueError as error:
        raise PublishedError(f"its {name} is not JSON: {first_line(error)}") from error
