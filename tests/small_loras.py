"""LoRAs of a checkpoint's own layers, with random factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from optimizer.merging.files.sources import TensorInfo

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
RANK = 2


def write_lora(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    prefixes: Sequence[str] = (UNET, TEXT),
    seed: int = 0,
    *,
    kohya: bool = False,
) -> Path:
    """Write a LoRA of every attention projection whose key begins with one of some prefixes.

    Args:
        tensors: of the checkpoint that it is for.
        kohya: whether layers of the U-Net have the names that kohya's scripts give SDXL's; else the checkpoint's own.
    """
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, Tensor] = {}
    for key, info in tensors.items():
        if not key.startswith(tuple(prefixes)) or not key.endswith((".to_q.weight", ".to_v.weight", "v_proj.weight")):
            continue
        module, (rows, columns) = key.removesuffix(".weight"), info.shape
        if kohya:
            module = f"lora_unet_{module.removeprefix(UNET).replace('.', '_')}"
        factors[f"{module}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator).half() * 0.2
        factors[f"{module}.lora_down.weight"] = torch.randn(RANK, columns, generator=generator).half() * 0.2
        factors[f"{module}.alpha"] = torch.tensor(float(RANK))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(factors, path, {"ss_base_model_version": "sdxl_base_v1-0"} if kohya else None)
    return path
