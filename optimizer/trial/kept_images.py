"""Images that are kept as PNG files beside a JSON record with the digest of their pixels, which is written last.

A process that is killed leaves images with a record, which are whole, and some without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from basics.files import replace_file
from basics.pictures import UNREADABLE
from optimizer.rendering.contact_sheet import to_tensor
from optimizer.trial.evaluation import pixels_digest
from studies.files.png import encode_png


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is not there, or is no JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, or put it in the place of another.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(path, json.dumps(record).encode())


def keep_images(paths: Sequence[Path], images: Sequence[Tensor]) -> list[str]:
    """Write images, uint8 [3, h, w] each, and return what a record says of them: the sha256 of their pixels.

    Raises:
        OSError: they cannot be written.
    """
    for path, image in zip(paths, images, strict=True):
        replace_file(path, encode_png(image.numpy()))
    return _digests(images)


def _digests(images: Iterable[Tensor]) -> list[str]:
    return [pixels_digest(image) for image in images]


def load_images(paths: Sequence[Path], digests: Sequence[str]) -> tuple[Tensor, ...] | None:
    """Read images, uint8 [3, h, w] each; None if one is gone, damaged, or not what was kept.

    Args:
        digests: from `keep_images`.
    """
    images = [_read(path) for path in paths]
    found = tuple(image for image in images if image is not None)
    return found if _digests(found) == list(digests) else None


def _read(path: Path) -> Tensor | None:
    try:
        with Image.open(path) as picture:
            return to_tensor(picture.convert("RGB"))
    except UNREADABLE:
        return None
