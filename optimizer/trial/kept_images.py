"""Images that are kept as PNG files beside a JSON record with the digest of their pixels, which is written last.

A process that is killed leaves images with a record, which are whole, and some without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from basics.pictures import UNREADABLE
from optimizer.rendering.contact_sheet import to_tensor
from optimizer.trial.evaluation import pixels_digest


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is not there, or is no JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def digests_of(images: Iterable[Tensor]) -> list[str]:
    """Return what a record says of images, uint8 [3, h, w] each: the sha256 of their pixels."""
    return [pixels_digest(image) for image in images]


def read_kept(paths: Sequence[Path], digests: Sequence[str]) -> tuple[Tensor, ...] | None:
    """Read images, uint8 [3, h, w] each; None if one is gone, damaged, or not what was kept.

    Args:
        digests: from `digests_of`.
    """
    images = [_read(path) for path in paths]
    found = tuple(image for image in images if image is not None)
    return found if digests_of(found) == list(digests) else None


def _read(path: Path) -> Tensor | None:
    try:
        with Image.open(path) as picture:
            return to_tensor(picture.convert("RGB"))
    except UNREADABLE:
        return None
