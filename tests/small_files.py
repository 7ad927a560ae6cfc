"""Small parents of the true key layout, written once for all tests of this folder."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from checkpoints import write_checkpoint

from optimizer.merging.files.checkpoint import Checkpoint

_FOLDER = tempfile.TemporaryDirectory(prefix="mergetune-small-")  # removed when the process ends


@cache
def small_parents(architecture: str) -> tuple[Checkpoint, ...]:
    """Three parents in fp16, of different values."""
    folder = Path(_FOLDER.name)
    return tuple(
        Checkpoint.open(write_checkpoint(folder / f"{architecture}-{seed}.safetensors", architecture, seed))
        for seed in range(3)
    )
