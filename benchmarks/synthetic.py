"""Full-size checkpoint files with random weights, made from the repository's key lists.

Their pictures show nothing, but they are finite and not flat, also in float16: every layer is initialised so that its
output has about the variance of its input.
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
NOISE = 1 << 20  # distinct random values; repeated to fill a tensor, which no arithmetic notices
NEAR_ZERO = 0.02  # standard deviation of biases, embeddings, and of norms' scales around one


def write_synthetic(path: Path, layout: str, seed: int) -> Path:
    """An fp16 checkpoint of full size (SD1.5 2.1 GB, SDXL 6.9 GB), written tensor by tensor."""
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
            left = 2 * _elements(row)
            values = _initial(row, noise[: _elements(row)]).half().numpy().tobytes()
            while left > 0:
                file.write(values[:left])
                left -= len(values)
    return path


def _initial(row: LayoutTensor, noise: Tensor) -> Tensor:
    """Values of a tensor, or of its first `NOISE` elements, from standard normal ones."""
    if len(row.shape) < 2:
        is_scale = row.key.endswith("weight")  # of a norm: biases, and what has no shape, end in other words
        return is_scale + NEAR_ZERO * noise
    if "embedding" in row.key:
        return NEAR_ZERO * noise
    return noise.mul((row.shape[0] / _elements(row)) ** 0.5)


def write_lora(path: Path, layout: str, rank: int = 16) -> Path:
    """A LoRA on every attention layer of the U-Net, named as the checkpoint's own keys are."""
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
