"""What every family of models says of its files and of the models that run.

Its blocks, and to which of them a key belongs, stand in search_spaces/families. Nothing here imports diffusers or
transformers before a model is built, so that merging alone does not wait for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from optimizer.families.shapes import Shapes
from optimizer.families.views import Component, LiveView, StoredPart


@dataclass(frozen=True, kw_only=True)
class LoraNames:
    """How LoRA files for the family's models are named, and how they tell what they were made for."""

    prefixes: Mapping[Component, str]  # of a module's name in kohya's files
    unet_as_stored: bool  # kohya's scripts train the U-Net under the names of its file, not diffusers'
    base_model: str  # kohya's `ss_base_model_version`
    header: re.Pattern[str] | None  # of `modelspec.architecture` or `ss_base_model_version`
    names: re.Pattern[str] | None  # in a module's name
    context_width: int | None  # input features of the layers that read the text, where no other family has them


@dataclass(frozen=True, kw_only=True)
class HeaderNames:
    """What headers of merged files call the family, after Stability AI's model metadata standard (modelspec 1.0)."""

    architecture: str
    implementation: str
    resolution: str  # such as 512x512


@dataclass(frozen=True, kw_only=True)
class KeyNames:
    """How the keys of its files begin, and what some files leave out of them."""

    unet: str
    vae: str
    bare_unet: tuple[str, ...]  # beginnings of the U-Net's keys in files without its prefix, the surest first
    clips: tuple[str, ...]  # prefixes after which some files lack `text_model.`
    first_convolution: str | None  # key of the weights [out, in, 3, 3] whose input channels inpainting models extend


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A batch of prompts as the U-Net wants it."""

    tokens: Tensor  # [n, tokens, width]
    pooled: Tensor | None  # [n, width of the pooled text], where the family has it


class ModelFamily(Protocol):
    """A family of models, as far as files and running models go."""

    @property
    def keys(self) -> KeyNames:
        """Names in its files."""

    @property
    def lora(self) -> LoraNames:
        """Names in LoRA files."""

    @property
    def header(self) -> HeaderNames:
        """Names in the header of a merged file."""

    @property
    def pipeline_classes(self) -> Mapping[Component, str]:
        """Component -> what `model_index.json` calls its class in a pipeline's folder."""

    def is_pipeline(self, unet_names: Collection[str]) -> bool:
        """Whether a U-Net of a pipeline's folder with these parameters is of this family."""

    def live_views(self, key: str, rank: int) -> tuple[LiveView, ...]:
        """Where one stored tensor of `rank` dimensions lives; see `layout.live_views`."""

    def stored_part(self, component: Component, name: str, rank: int) -> StoredPart | None:
        """Where a live parameter stands in a file; see `layout.stored_part`."""

    def unet_config(self, shapes: Shapes) -> dict[str, Any]:
        """Arguments of the U-Net's class. Raises CheckpointError where a tensor is missing."""

    def vae_config(self, shapes: Shapes) -> dict[str, Any]:
        """Arguments of the VAE's class. Raises CheckpointError where a tensor is missing."""

    def text_configs(self, shapes: Shapes) -> dict[Component, dict[str, Any]]:
        """Arguments of each text encoder's configuration. Raises CheckpointError where a tensor is missing."""

    def build(self, shapes: Shapes, latents: Mapping[str, Any]) -> dict[Component, nn.Module]:
        """Every component without weights, on the device `meta`.

        Args:
            latents: what the prediction changes in the VAE's configuration.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def embed(
        self, prompts: Sequence[str], texts: Mapping[Component, Any], clip_skip: int, device: torch.device
    ) -> Embedded:
        """Read prompts with the text encoders.

        Args:
            texts: the live text encoders, on `device`.
            clip_skip: 1: the last layer; 2: the one before it; counted as A1111 counts.
        """

    def pipeline(self, unet: Any, vae: Any, texts: Mapping[Component, Any], scheduler: Any) -> Any:
        """The diffusers pipeline. It is handed embeddings and latents, so it has no tokenizer."""
