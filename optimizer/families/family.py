"""The protocol that every family of models implements, as far as its files and running models go.

The family's blocks, and the block of each key, are in search_spaces/families. diffusers and transformers are imported
only when a model is built, so that merging alone does not wait for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from optimizer.families.shapes import Shapes
from optimizer.families.views import Component, LiveView, StoredPart


@dataclass(frozen=True, kw_only=True)
class LoraNames:
    """The names in LoRA files for the family's models, and the signs by which such files are recognised."""

    prefixes: Mapping[Component, str]  # of a module's name in kohya's files
    unet_as_stored: bool  # kohya's scripts name the U-Net's layers as checkpoint files do, not as diffusers does
    base_model: str  # kohya's `ss_base_model_version`
    header: re.Pattern[str] | None  # of `modelspec.architecture` or `ss_base_model_version`
    names: re.Pattern[str] | None  # in a module's name
    context_width: int | None  # input features of the layers that read the text, if no other family has the same
    clips: Mapping[Component, str] = field(default_factory=dict)  # text encoder -> its name for ComfyUI and OneTrainer


@dataclass(frozen=True, kw_only=True)
class HeaderNames:
    """The family's values in headers of merged files, after Stability AI's metadata standard (modelspec 1.0)."""

    architecture: str
    implementation: str
    resolution: str  # for example 512x512


@dataclass(frozen=True, kw_only=True)
class ComfyMerge:
    """ComfyUI's core node that merges the family's U-Nets block by block (nodes_model_merging_model_specific.py)."""

    node: str
    inputs: tuple[str, ...]  # its ratios in their order: each is called as the keys begin that it applies to


@dataclass(frozen=True, kw_only=True)
class KeyNames:
    """The prefixes of the keys in the family's files, and the parts that some files leave out."""

    unet: str
    vae: str
    bare_unet: tuple[str, ...]  # beginnings of the U-Net's keys in files without its prefix, the most reliable first
    clips: tuple[str, ...]  # prefixes of text encoders after which some files lack `text_model.`
    first_convolution: str | None  # key of the weights [out, in, 3, 3] whose input channels inpainting models extend
    # Prefix -> the component whose names in diffusers or transformers follow it in some files.
    aliases: Mapping[str, Component] = field(default_factory=dict)
    spare: re.Pattern[str] | None = None  # keys that published files may lack, because no image depends on them
    essential: tuple[str, ...] = ()  # keys that each component has, however many layers its model has


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """How a text encoder of the family reads tokens, in all programs."""

    component: Component
    padding: int  # id of the tokens after the end mark
    clip: str  # clip_l or clip_g: its name in files of textual inversion
    is_open_clip: bool = False  # whether A1111 runs it with open_clip, and so with its tokenizer


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Text embeddings of a batch of token rows; the U-Net reads the layers side by side."""

    layers: tuple[Tensor, ...]  # of each text encoder [n, tokens, width]
    pooled: Tensor | None  # [n, width of the pooled text], if the family uses it


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
    def comfy_merge(self) -> ComfyMerge | None:
        """The node of ComfyUI that merges its blocks; None where no core node does."""

    @property
    def pipeline_classes(self) -> Mapping[Component, str]:
        """Component -> the name of its class in the `model_index.json` of a pipeline's folder."""

    def is_pipeline(self, unet_names: Collection[str]) -> bool:
        """Return whether a pipeline whose U-Net has these parameters is of this family."""

    def live_views(self, key: str, rank: int) -> tuple[LiveView, ...]:
        """Return the live parameters that a stored tensor of `rank` dimensions holds; see `layout.live_views`."""

    def stored_part(self, component: Component, name: str, rank: int) -> StoredPart | None:
        """Return where a file stores a live parameter of `rank` dimensions; see `layout.stored_part`."""

    def unet_config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of the U-Net's class.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def vae_config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of the VAE's class.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def text_configs(self, shapes: Shapes) -> dict[Component, dict[str, Any]]:
        """Return the arguments of each text encoder's configuration.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def assumed_settings(self, component: Component, shapes: Shapes) -> Mapping[str, Any]:
        """Return what a checkpoint file cannot say of a component, by the keys of a pipeline's `config.json`.

        Each changes the images, and each has one value for all models of the family, or one that follows from shapes.

        Args:
            shapes: of the component's tensors at least, by their keys in a file.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def build(self, shapes: Shapes, latents: Mapping[str, Any]) -> dict[Component, nn.Module]:
        """Build every component without weights, on the device `meta`.

        Args:
            latents: arguments of the VAE's class that depend on the prediction.

        Raises:
            CheckpointError: a tensor is missing.
        """

    @property
    def readers(self) -> tuple[TextReader, ...]:
        """Its text encoders, in the order in which the U-Net reads them."""

    @property
    def zeroes_empty_negative(self) -> bool:
        """Whether A1111 gives the U-Net zeros for an empty negative prompt."""

    def embed(self, ids: Sequence[Tensor], texts: Mapping[Component, Any], clip_skip: int) -> Embedded:
        """Embed tokens with the text encoders.

        Args:
            ids: of each encoder, in the order of `readers` [n, tokens], on the encoders' device.
            texts: the live text encoders.
            clip_skip: layer to read, counted as A1111 counts: 1 is the last, 2 the one before it.
        """

    def added_conditions(self, pooled: Tensor | None, sizes: Sequence[int]) -> Mapping[str, Tensor]:
        """Return what the U-Net is told besides time and text, by the names in its `added_cond_kwargs`.

        Args:
            pooled: the pooled texts [n, p], if the family uses them.
            sizes: height and width of the original, top and left of the crop, height and width of the target, in
                pixels.
        """
