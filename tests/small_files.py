"""Small parents with the real key layout, written once per test process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from checkpoints import write_checkpoint

from optimizer.merging.files.checkpoint import Checkpoint

_FOLDER = tempfile.TemporaryDirectory(prefix="mergetune-small-")  # removed when the process ends


@cache
def small_parents(architecture: str) -> tuple[Checkpoint, ...]:
    """Return three parents in fp16 with different values."""
    folder = Path(_FOLDER.name)
    return tuple(
        Checkpoint.open(write_checkpoint(folder / f"{architecture}-{seed}.safetensors", architecture, seed))
        for seed in range(3)
    )
