"""The common part of SD1.5 and SDXL: a U-Net and a VAE of the same kinds, and CLIP's text models.

What cannot be read off shapes is fixed: 32 groups in every normalisation, and the numbers in each family's module.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from optimizer.errors import CheckpointError
from optimizer.families.clip import TextEncoder
from optimizer.families.family import ComfyMerge, HeaderNames, KeyNames, LoraNames
from optimizer.families.shapes import Shapes, count, shape_of
from optimizer.families.unet_names import unet_part, unet_views
from optimizer.families.vae_names import vae_part, vae_views
from optimizer.families.views import Component, LiveView, StoredPart

UNET_BEGINNINGS = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")

# The noise with which SD1.5 and SDXL were trained, by the keys of diffusers' schedulers.
NOISE_SCHEDULE: Final[Mapping[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
# Settings of diffusers' models that no file has, all at their usual values.
_UNET_SETTINGS: Final[Mapping[str, Any]] = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_VAE_SETTINGS: Final[Mapping[str, Any]] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "shift_factor": None,
}
_UNET_ESSENTIAL: Final = (
    "time_embed.0",
    "time_embed.2",
    "input_blocks.0.0",
    *(
        f"middle_block.0.{layer}"
        for layer in ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    ),
    "out.0",
    "out.2",
)
_VAE_ESSENTIAL: Final = ("post_quant_conv", "decoder.conv_in", "decoder.norm_out", "decoder.conv_out")
VAE_ALIASES: Final[dict[str, Component]] = {"first_stage_model.": "vae", "vae.": "vae"}


def essential_keys(unet: str, vae: str) -> tuple[str, ...]:
    """Return the keys of the layers without which no U-Net and no VAE makes an image.

    Args:
        unet: prefix of the U-Net's keys.
        vae: prefix of the VAE's.
    """
    layers = (*(unet + layer for layer in _UNET_ESSENTIAL), *(vae + layer for layer in _VAE_ESSENTIAL))
    return tuple(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(ABC):
    """The part of `ModelFamily` that the families of Stable Diffusion share, up to names and numbers."""

    keys: KeyNames
    lora: LoraNames
    header: HeaderNames
    texts: tuple[TextEncoder, ...]
    up_levels_without_attention: Collection[int]  # of the output blocks, counted from the deepest
    latent_scale: float
    image_size: int  # side of the training images, in pixels
    comfy_merge: ComfyMerge | None = None

    @property
    def pipeline_classes(self) -> Mapping[Component, str]:
        """Component -> the name of its class in `model_index.json`."""
        texts = {text.component: text.model_class for text in self.texts}
        return {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", **texts}

    def live_views(self, key: str, rank: int) -> tuple[LiveView, ...]:
        """Return the live parameters that a stored tensor of `rank` dimensions holds."""
        if key.startswith(self.keys.unet):
            return unet_views(key.removeprefix(self.keys.unet))
        if key.startswith(self.keys.vae):
            return vae_views(key.removeprefix(self.keys.vae), rank)
        for text in self.texts:
            if key.startswith(text.prefix):
                return text.views(key.removeprefix(text.prefix))
        return ()

    def stored_part(self, component: Component, name: str, rank: int) -> StoredPart | None:
        """Return where a file stores a live parameter of `rank` dimensions."""
        if component == "unet":
            return unet_part(name, self.keys.unet, self.up_levels_without_attention)
        if component == "vae":
            return vae_part(name, self.keys.vae, rank)
        return next((text.part(name) for text in self.texts if text.component == component), None)

    def unet_config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of diffusers' UNet2DConditionModel.

        Raises:
            CheckpointError: a tensor is missing.
        """
        unet = self.keys.unet
        widths = _level_widths(shapes, unet)
        depths = [_transformer_depth(shapes, f"{unet}input_blocks.{3 * level + 1}.1.") for level in range(len(widths))]
        middle = _transformer_depth(shapes, f"{unet}middle_block.1.")
        linear = len(shape_of(shapes, f"{unet}middle_block.1.proj_in.weight")) == 2
        return {
            "sample_size": self.image_size // 8,
            "in_channels": shape_of(shapes, f"{unet}input_blocks.0.0.weight")[1],
            "out_channels": shape_of(shapes, f"{unet}out.2.weight")[0],
            "block_out_channels": tuple(widths),
            "layers_per_block": 2,
            "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
            "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
            "transformer_layers_per_block": (*(depth or 1 for depth in depths[:-1]), middle),
            "cross_attention_dim": shape_of(shapes, f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
            # diffusers' name is a historical mistake: this is the number of heads
            "attention_head_dim": self.heads(widths),
            "use_linear_projection": linear,
            "norm_num_groups": _UNET_SETTINGS["norm_num_groups"],
            **self.conditions(shapes),
        }

    @abstractmethod
    def heads(self, widths: list[int]) -> int | tuple[int, ...]:
        """Return the attention heads of the U-Net's levels: one number for all, or one for each.

        Args:
            widths: channels of each level.
        """

    def conditions(self, shapes: Shapes) -> dict[str, Any]:  # noqa: ARG002 - none but time and text
        """Return the U-Net's arguments for what it is conditioned on besides time and text."""
        return {}

    def added_conditions(
        self,
        pooled: Tensor | None,  # noqa: ARG002 - for families that read it
        sizes: Sequence[int],  # noqa: ARG002
    ) -> Mapping[str, Tensor]:
        """Return what the U-Net is told besides time and text: nothing."""
        return {}

    def vae_config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of diffusers' AutoencoderKL.

        Raises:
            CheckpointError: a tensor is missing.
        """
        vae = self.keys.vae
        levels = count(shapes, re.compile(re.escape(f"{vae}encoder.down.") + r"(\d+)\."))
        widths = [shape_of(shapes, f"{vae}encoder.down.{level}.block.0.conv2.weight")[0] for level in range(levels)]
        return {
            "in_channels": shape_of(shapes, f"{vae}encoder.conv_in.weight")[1],
            "out_channels": shape_of(shapes, f"{vae}decoder.conv_out.weight")[0],
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": tuple(widths),
            "layers_per_block": count(shapes, re.compile(re.escape(f"{vae}encoder.down.0.block.") + r"(\d+)\.")),
            "latent_channels": shape_of(shapes, f"{vae}post_quant_conv.weight")[1],
            "norm_num_groups": _VAE_SETTINGS["norm_num_groups"],
            "sample_size": self.image_size,
            "scaling_factor": self.latent_scale,
        }

    def text_configs(self, shapes: Shapes) -> dict[Component, dict[str, Any]]:
        """Return the arguments of transformers' CLIPTextConfig for each text encoder.

        Raises:
            CheckpointError: a tensor is missing.
        """
        return {text.component: text.config(shapes) for text in self.texts}

    def assumed_settings(self, component: Component, shapes: Shapes) -> Mapping[str, Any]:
        """Return what a file cannot say of a component, by the keys of its `config.json`.

        Raises:
            CheckpointError: a tensor is missing.
        """
        if component == "unet":
            return {**_UNET_SETTINGS, "attention_head_dim": self.heads(_level_widths(shapes, self.keys.unet))}
        if component == "vae":
            return {**_VAE_SETTINGS, "scaling_factor": self.latent_scale}
        return next(text.assumed_settings(shapes) for text in self.texts if text.component == component)

    def build(self, shapes: Shapes, latents: Mapping[str, Any]) -> dict[Component, nn.Module]:
        """Build every component without weights, on the device `meta`.

        Args:
            latents: arguments of the VAE's class that depend on the prediction.

        Raises:
            CheckpointError: a tensor is missing.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel

        with torch.device("meta"):
            return {
                "unet": UNet2DConditionModel(**self.unet_config(shapes)),
                "vae": AutoencoderKL(**{**self.vae_config(shapes), **latents}),
                **{text.component: text.build(text.config(shapes)) for text in self.texts},
            }


def _level_widths(shapes: Shapes, unet: str) -> list[int]:
    """Return the channels of each level, from its first residual block: input block 1, 4, 7 ...

    Raises:
        CheckpointError: there is no U-Net.
    """
    widths: list[int] = []
    while (key := f"{unet}input_blocks.{3 * len(widths) + 1}.0.out_layers.3.weight") in shapes:
        widths.append(shapes[key][0])
    if not widths:
        raise CheckpointError(f"no U-Net: {unet}input_blocks.1.0.out_layers.3.weight is missing; use a full checkpoint")
    return widths


def _transformer_depth(shapes: Shapes, prefix: str) -> int:
    return count(shapes, re.compile(re.escape(prefix) + r"transformer_blocks\.(\d+)\."))
