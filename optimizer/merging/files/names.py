"""The names of model files: what their suffixes say, and how they are shown. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TORCH_SUFFIXES: Final = frozenset({".ckpt", ".pt", ".pth"})
SAFETENSORS_SUFFIX: Final = ".safetensors"
CHECKPOINT_SUFFIXES: Final = frozenset({SAFETENSORS_SUFFIX, *TORCH_SUFFIXES})
DIFFUSERS_INDEX: Final = "model_index.json"  # in the folder of a diffusers pipeline


def model_name(path: Path) -> str:
    """Return a checkpoint's display name: that of the file without its suffix, or that of the folder."""
    has_suffix = path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.is_dir()
    return path.stem if has_suffix else path.name
