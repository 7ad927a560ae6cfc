"""Whether there can be a model at a path: told without torch, so before anything that takes seconds to import."""

from __future__ import annotations

import os
from pathlib import Path

from optimizer.errors import CheckpointError, LoraError


def require_checkpoint_at(path: Path) -> None:
    """Refuse a path with nothing at it.

    Raises:
        CheckpointError: there is no file or folder.
    """
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint at {path}: give the path of a .safetensors or .ckpt file, or of a diffusers folder"
        )


def require_lora_at(path: Path) -> None:
    """Refuse a path at which there is no file.

    Raises:
        LoraError: there is nothing, or a folder.
    """
    if path.is_dir():
        raise LoraError(f"no LoRA at {path}, a folder: give the file in it, such as adapter_model.safetensors")
    if not path.is_file():
        raise LoraError(f"no LoRA at {path}: give the path of a .safetensors file, or of one of torch.save")


def require_utf8_name(path: Path) -> None:
    """Refuse a path whose bytes are not UTF-8, such as a Shift-JIS name on Linux: safetensors cannot open it.

    Raises:
        CheckpointError: it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise CheckpointError(
            f"{readable}: this name is not UTF-8 (perhaps Shift-JIS or Latin-1), the file itself may be whole: rename "
            "the file or folder"
        ) from error
