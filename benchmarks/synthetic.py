"""Full-size checkpoint files with random weights, made from the repository's key lists.

Their images show nothing, but they are finite and not flat, even in float16, because every layer is initialised so that
its output has about the variance of its input.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from layouts import LayoutTensor, read_layout

UNET = "model.diffusion_model."
NOISE = 1 << 20  # distinct random values; they are repeated to fill a tensor, which does not affect any timing
NEAR_ZERO = 0.02  # standard deviation of biases and embeddings, and of the scales of norms around 1


def write_synthetic(path: Path, layout: str, seed: int) -> Path:
    """Write an fp16 checkpoint of full size (SD1.5 2.1 GB, SDXL 6.9 GB), tensor by tensor."""
    rows = [row for row in read_layout(layout) if row.kind == "F" and row.shape]  # no position ids, no logit scale
    table: dict[str, object] = {}
    offset = 0
    for row in rows:
        size = 2 * _elements(row)
        table[row.key] = {"dtype": "F16", "shape": list(row.shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for row in rows:
            remaining = 2 * _elements(row)
            values = _initial(row, noise[: _elements(row)]).half().numpy().tobytes()
            while remaining > 0:
                file.write(values[:remaining])
                remaining -= len(values)
    return path


def _initial(row: LayoutTensor, noise: Tensor) -> Tensor:
    """Scale standard normal values to those of a tensor, or of its first `NOISE` elements."""
    if len(row.shape) < 2:
        is_scale = row.key.endswith("weight")  # of a norm; names of biases end differently
        return is_scale + NEAR_ZERO * noise
    if "embedding" in row.key:
        return NEAR_ZERO * noise
    return noise.mul((row.shape[0] / _elements(row)) ** 0.5)


def write_lora(path: Path, layout: str, rank: int = 16) -> Path:
    """Write a LoRA on every attention layer of the U-Net, named after the checkpoint's keys."""
    tensors = {}
    for row in read_layout(layout):
        if row.key.startswith(UNET) and ".attn" in row.key and len(row.shape) == 2:
            module = f"lora_unet_{row.key.removeprefix(UNET).removesuffix('.weight').replace('.', '_')}"
            tensors[f"{module}.lora_up.weight"] = torch.randn(row.shape[0], rank).half() * 0.01
            tensors[f"{module}.lora_down.weight"] = torch.randn(rank, row.shape[1]).half() * 0.01
    save_file(tensors, path)
    return path


def _elements(row: LayoutTensor) -> int:
    total = 1
    for size in row.shape:
        total *= size
    return total
