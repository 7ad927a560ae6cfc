"""How trials are rendered, and what the exported file holds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from basics.settings import FrozenSettings
from studies.recipe.recipe import DtypeName


class RenderSettings(FrozenSettings):
    """Settings that decide how trials are rendered, and which renders are stored."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps ...
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # auto: fp32 on a CPU, else fp16, or bf16 if saved so
    batch_size: int | None = Field(default=None, ge=1)
    fp16_accumulation: bool = False  # the U-Net's fp16 products are summed in fp16: faster on some cards, other pixels
    vae_tiling: bool = False  # images above 512 pixels are decoded in tiles: less memory, and other pixels
    cuda_graphs: bool = True  # repeat recorded kernels on a GPU with memory for it; images stay the same, to the bit
    keep: Literal["best", "all", "none"] = "best"  # the trials whose renders are stored; contact sheets always are
    degenerate_limit: int = Field(default=0, ge=0)  # broken images a trial may have before it fails


class ExportSettings(FrozenSettings):
    """Settings of the exported file."""

    dtype: DtypeName | None = None  # None keeps parent A's, tensor by tensor
