"""Small checkpoints with prediction markers, or with the input channels of inpainting and instruction models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from checkpoints import random_tensors
from safetensors.torch import save_file
from torch import Tensor

from optimizer.merging.files.checkpoint import Checkpoint

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
V_PRED = {"v_pred": torch.zeros(0)}
ZERO_SNR = {"v_pred": torch.zeros(0), "ztsnr": torch.tensor(0.0)}  # both spellings: empty, and a scalar
COSXL = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
PLAYGROUND = {
    "edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1),
    "edm_std": torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(1, 4, 1, 1),
}


@cache
def _tensors(architecture: str, seed: int) -> Mapping[str, Tensor]:
    return random_tensors(architecture, seed)


def write_header(
    path: Path, markers: Mapping[str, Tensor] | None = None, *, metadata: Mapping[str, str] | None = None
) -> Checkpoint:
    """Write a file with keys of an SD1.5 U-Net and text encoder and with markers; its tensors are meaningless."""
    keys = [key for key in _tensors("sd15", 0) if key.startswith(("model.diffusion_model.input_blocks.1.", "cond_"))]
    tensors = {key: torch.zeros(1) for key in keys}
    save_file(tensors | dict(markers or {}), path, metadata={"format": "pt", **(metadata or {})})
    return Checkpoint.open(path)


def write_marked(
    path: Path,
    markers: Mapping[str, Tensor] | None = None,
    *,
    architecture: str = "sd15",
    metadata: Mapping[str, str] | None = None,
    channels: int = 4,
    seed: int = 0,
) -> Checkpoint:
    """Write a small checkpoint with top-level markers, whose U-Net takes the given number of input channels."""
    tensors = dict(_tensors(architecture, seed))
    shape = (tensors[FIRST].shape[0], channels, 3, 3)
    tensors[FIRST] = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1).half()
    save_file(tensors | dict(markers or {}), path, metadata={"format": "pt", **(metadata or {})})
    return Checkpoint.open(path)
