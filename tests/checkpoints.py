"""Small checkpoint files with the real key layout, made from the full-size key lists by shrinking every dimension.

Nothing here uses the code under test: the keys come from published lists, and the values are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from layouts import read_layout
from safetensors.torch import save_file
from torch import Tensor

# Full size -> small size. Sums stay sums, because up blocks concatenate two widths.
_UNET_SD15 = {
    320: 32,
    640: 64,
    960: 96,
    1280: 128,
    1920: 192,
    2560: 256,
    5120: 512,
    10240: 1024,
    2560 * 2: 512,
    768: 64,
}
_UNET_SDXL = _UNET_SD15 | {2048: 128, 2816: 160}
_VAE = {128: 32, 256: 64, 512: 128}
_CLIP = {768: 64, 3072: 128, 1280: 64, 5120: 128, 3840: 192}

KEPT_LAYERS = 2  # of each text encoder; and one transformer block of each stack


def small_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a small checkpoint, including integers (position_ids)."""
    unet = _UNET_SD15 if architecture == "sd15" else _UNET_SDXL
    return {
        entry.key: tuple(_shrink(entry.key, size, unet) for size in entry.shape)
        for entry in read_layout(architecture)
        if not _dropped(entry.key)
    }


def _shrink(key: str, size: int, unet: Mapping[int, int]) -> int:
    if key.startswith("model.diffusion_model."):
        return unet.get(size, size)
    return (_VAE if key.startswith("first_stage_model.") else _CLIP).get(size, size)


def _dropped(key: str) -> bool:
    for marker in ("encoder.layers.", "resblocks.", "transformer_blocks."):
        if marker in key and int(key.split(marker)[1].split(".")[0]) >= (1 if "transformer" in marker else KEPT_LAYERS):
            return True
    return False


def random_tensors(architecture: str, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Draw values that keep activations finite: small weights, norms around one."""
    drawn = _drawn(architecture, seed)
    return {key: row.to(dtype if row.is_floating_point() else row.dtype, copy=True) for key, row in drawn.items()}


@lru_cache(maxsize=3)  # drawing takes ten times as long as copying
def _drawn(architecture: str, seed: int) -> Mapping[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in small_shapes(architecture).items():
        if key.endswith("position_ids"):
            tensors[key] = torch.arange(77)[None]
            continue
        values = torch.randn(shape, generator=generator) * 0.04
        if ("norm" in key or ".ln_" in key) and key.endswith("weight"):
            values = 1 + values
        tensors[key] = values
    return tensors


def write_checkpoint(path: Path, architecture: str = "sd15", seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Write a small checkpoint with random values, and return its path."""
    save_file(random_tensors(architecture, seed, dtype), path, metadata={"format": "pt"})
    return path
