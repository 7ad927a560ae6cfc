"""Full-size checkpoint files with random weights, made from the repository's key lists."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from layouts import Row, read_layout

UNET = "model.diffusion_model."
NOISE = 1 << 20  # distinct random values; repeated to fill a tensor, which no arithmetic notices


def write_synthetic(path: Path, layout: str, seed: int) -> Path:
    """An fp16 checkpoint of full size (SD1.5 2.1 GB, SDXL 6.9 GB), written tensor by tensor."""
    rows = [row for row in read_layout(layout) if not row.optional]
    table: dict[str, object] = {}
    offset = 0
    for row in rows:
        size = 2 * _elements(row)
        table[row.key] = {"dtype": "F16", "shape": list(row.shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    noise = (torch.randn(NOISE, generator=torch.Generator().manual_seed(seed)) * 0.04).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for row in rows:
            left = 2 * _elements(row)
            while left > 0:
                file.write(noise[:left])
                left -= len(noise)
    return path


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


def _elements(row: Row) -> int:
    total = 1
    for size in row.shape:
        total *= size
    return total
