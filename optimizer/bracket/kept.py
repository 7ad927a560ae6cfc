"""The renders of a bracket on disk: a folder for each checkpoint and suite, whose record is written last.

A folder's name says what its pictures depend on, so those of a file or a suite that has changed are never taken for
those of another. A process that is killed leaves folders with a record, which are whole, and one without.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from basics.files import open_to_write, replacing
from optimizer.trial.evaluation import pixels_digest
from studies.files.png import encode_png

RECORD: Final = "renders.json"


@dataclass(frozen=True, kw_only=True)
class KeptRender:
    """A checkpoint's pictures of a round."""

    images: tuple[Tensor, ...]  # uint8 [3, h, w], as they were rendered
    faults: tuple[str | None, ...]  # why an image is degenerate; None if it is not
    failure: str | None = None  # why there are none


@dataclass(frozen=True)
class KeptRenders:
    """The folder of all renders of a bracket."""

    folder: Path

    def load(self, key: str) -> KeptRender | None:
        """Return the pictures of a key; None if they are not there, or not as they were rendered."""
        record = self._record(key)
        if record is None:
            return None
        images = [_image(self.picture(key, index)) for index, _ in enumerate(record["pixels"])]
        found = tuple(image for image in images if image is not None)
        if [*map(pixels_digest, found)] != record["pixels"]:
            return None
        return KeptRender(images=found, faults=tuple(record["faults"]), failure=record.get("failure"))

    def keep(self, key: str, render: KeptRender) -> None:
        """Keep the pictures of a key.

        Raises:
            OSError: they cannot be written.
        """
        (self.folder / key).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(render.images):
            _write(self.picture(key, index), encode_png(image.numpy()))
        record = {"pixels": [*map(pixels_digest, render.images)], "faults": render.faults, "failure": render.failure}
        _write(self.folder / key / RECORD, json.dumps(record).encode())

    def picture(self, key: str, index: int) -> Path:
        """Return the path of a picture."""
        return self.folder / key / f"{index:04}.png"

    def _record(self, key: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.folder / key / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(record, dict) and all(isinstance(record.get(name), list) for name in ("pixels", "faults"))
        return record if whole else None


def _image(path: Path) -> Tensor | None:
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
    except (OSError, ValueError, SyntaxError):  # Pillow's answers to a file that is cut off or is no picture
        return None


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary, open_to_write(temporary) as file:
        file.write(content)
