"""The renders of a bracket on disk: a folder for each checkpoint and suite, whose record is written last.

A folder's name says what its pictures depend on, so those of a file or a suite that has changed are never taken for
those of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from optimizer.trial.kept_images import keep_images, load_images, read_record, write_record

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
        record = read_record(self.folder / key / RECORD) or {}
        if not all(isinstance(record.get(name), list) for name in ("pixels", "faults")):
            return None
        images = load_images([self.picture(key, index) for index in range(len(record["pixels"]))], record["pixels"])
        if images is None:
            return None
        return KeptRender(images=images, faults=tuple(record["faults"]), failure=record.get("failure"))

    def keep(self, key: str, render: KeptRender) -> None:
        """Keep the pictures of a key.

        Raises:
            OSError: they cannot be written.
        """
        (self.folder / key).mkdir(parents=True, exist_ok=True)
        pixels = keep_images([self.picture(key, index) for index in range(len(render.images))], render.images)
        record = {"pixels": pixels, "faults": render.faults, "failure": render.failure}
        write_record(self.folder / key / RECORD, record)

    def picture(self, key: str, index: int) -> Path:
        """Return the path of a picture."""
        return self.folder / key / f"{index:04}.png"
