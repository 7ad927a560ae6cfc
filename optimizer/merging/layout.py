"""File key <-> live parameter: where each tensor of a checkpoint file lives in the running models.

Stable Diffusion files name their tensors after the original research code; the running models are
diffusers' UNet2DConditionModel and AutoencoderKL and transformers' CLIP text models. Every live
parameter is a *view* of a tensor as the file stores it: the same, reshaped, transposed, or one third of
the fused attention projection of OpenCLIP. So a merge can stay in the file's layout, and nothing is
converted between merging, rendering and exporting.

Checked in tests against the conversion that diffusers itself does when it loads a single file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from search_spaces.blocks import Architecture

Component = Literal["unet", "vae", "text_encoder", "text_encoder_2"]
Reading = Literal["whole", "linear", "transposed", "first third", "second third", "last third"]


@dataclass(frozen=True, slots=True)
class LiveView:
    """One live parameter: in which model, under which name, and how it looks at the stored tensor."""

    component: Component
    name: str
    reading: Reading = "whole"

    def of(self, stored: Tensor) -> Tensor:
        """The live parameter as a view of the stored tensor: no copy, writes go both ways."""
        match self.reading:
            case "whole":
                return stored
            case "linear":  # a 1x1 convolution [out, in, 1, 1] that the live model has as [out, in]
                return stored.flatten(1)
            case "transposed":
                return stored.t()
            case third:
                rows = stored.shape[0] // 3
                index = ("first third", "second third", "last third").index(third)
                return stored[index * rows : (index + 1) * rows]


def live_views(key: str, architecture: Architecture, rank: int) -> tuple[LiveView, ...]:
    """Where one stored tensor lives.

    Args:
        key: name in the checkpoint file.
        rank: number of dimensions of the stored tensor.

    Returns:
        No view for what no live model has (`position_ids`, `logit_scale`, markers, EMA copies), three
        for a fused attention projection, one otherwise.
    """
    for prefix, place in _PREFIXES[architecture]:
        if key.startswith(prefix):
            return place(key.removeprefix(prefix), rank)
    return ()


# ----------------------------------------------------------------------------------------- U-Net

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)")
_UNET_MIDDLE = re.compile(r"middle_block\.(\d)\.(.+)")


def _unet(rest: str, rank: int) -> tuple[LiveView, ...]:  # noqa: ARG001 - one call shape for all
    name = _unet_name(rest)
    return (LiveView("unet", name),) if name else ()


def _unet_name(rest: str) -> str | None:
    stem, _, leaf = rest.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}"
    if middle := _UNET_MIDDLE.fullmatch(rest):
        index, inner = int(middle[1]), middle[2]
        home = "attentions.0" if index == 1 else f"resnets.{index // 2}"
        return f"mid_block.{home}.{_rename(inner)}"
    if block := _UNET_BLOCK.fullmatch(rest):
        side, number, index, inner = block[1], int(block[2]), int(block[3]), block[4]
        return _down_name(number, index, inner) if side == "input_blocks" else _up_name(number, index, inner)
    return None


def _down_name(number: int, index: int, inner: str) -> str:
    """Input blocks 1, 2 and 3 are level 0 (two residual blocks and the downsampler), and so on."""
    level, layer = divmod(number - 1, 3)
    if layer == 2:
        return f"down_blocks.{level}.downsamplers.0.{inner.replace('op.', 'conv.', 1)}"
    home = "resnets" if index == 0 else "attentions"
    return f"down_blocks.{level}.{home}.{layer}.{_rename(inner)}"


def _up_name(number: int, index: int, inner: str) -> str:
    """Output blocks 0, 1 and 2 are level 0; an upsampler is the last module of the third."""
    level, layer = divmod(number, 3)
    if inner.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{inner}"
    home = "resnets" if index == 0 else "attentions"
    return f"up_blocks.{level}.{home}.{layer}.{_rename(inner)}"


def _rename(inner: str) -> str:
    """Inside a residual block; attention blocks are named alike on both sides."""
    stem, _, leaf = inner.rpartition(".")
    return f"{_RESNET[stem]}.{leaf}" if stem in _RESNET else inner


# ------------------------------------------------------------------------------------------- VAE

_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(?:block\.(\d+)|(downsample|upsample))\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(?:block_([12])|attn_1)\.(.+)")
VAE_LEVELS = 4  # every SD1.5 and SDXL autoencoder has four; the decoder's file order is reversed


def _vae(rest: str, rank: int) -> tuple[LiveView, ...]:
    name = _vae_name(rest)
    linear = ".attentions.0.to_" in name and rank == 4
    return (LiveView("vae", name, "linear" if linear else "whole"),)


def _vae_name(rest: str) -> str:
    if block := _VAE_BLOCK.fullmatch(rest):
        side, level, layer, sampler, inner = block[1], int(block[2]), block[3], block[4], block[5]
        home = (
            f"encoder.down_blocks.{level}" if side == "encoder.down" else f"decoder.up_blocks.{VAE_LEVELS - 1 - level}"
        )
        if sampler:
            return f"{home}.{sampler}rs.0.{inner}"
        return f"{home}.resnets.{layer}.{inner.replace('nin_shortcut', 'conv_shortcut')}"
    if middle := _VAE_MIDDLE.fullmatch(rest):
        coder, number, inner = middle[1], middle[2], middle[3]
        if number:
            return f"{coder}.mid_block.resnets.{int(number) - 1}.{inner}"
        stem, _, leaf = inner.rpartition(".")
        return f"{coder}.mid_block.attentions.0.{_VAE_ATTENTION.get(stem, stem)}.{leaf}"
    return rest.replace("norm_out", "conv_norm_out")


# --------------------------------------------------------------------------------- text encoders


def _clip_l(rest: str, rank: int) -> tuple[LiveView, ...]:  # noqa: ARG001
    return () if rest.endswith("position_ids") else (LiveView("text_encoder", rest),)


_OPEN_CLIP_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_THIRDS: tuple[tuple[str, Reading], ...] = (("q", "first third"), ("k", "second third"), ("v", "last third"))


def _open_clip(rest: str, rank: int) -> tuple[LiveView, ...]:  # noqa: ARG001
    if rest == "text_projection":
        return (LiveView("text_encoder_2", "text_projection.weight", "transposed"),)
    if rest in _OPEN_CLIP_ENDS:
        return (LiveView("text_encoder_2", f"text_model.{_OPEN_CLIP_ENDS[rest]}"),)
    block = _OPEN_CLIP_BLOCK.fullmatch(rest)
    if block is None:
        return ()
    home, inner = f"text_model.encoder.layers.{block[1]}", block[2]
    if inner.startswith("attn.in_proj_"):
        leaf = inner.removeprefix("attn.in_proj_")
        return tuple(
            LiveView("text_encoder_2", f"{home}.self_attn.{part}_proj.{leaf}", third) for part, third in _THIRDS
        )
    stem, _, leaf = inner.rpartition(".")
    return (LiveView("text_encoder_2", f"{home}.{_OPEN_CLIP_LAYER[stem]}.{leaf}"),) if stem in _OPEN_CLIP_LAYER else ()


_Placer = Callable[[str, int], tuple[LiveView, ...]]
_PREFIXES: dict[Architecture, Sequence[tuple[str, _Placer]]] = {
    Architecture.SD15: (
        ("model.diffusion_model.", _unet),
        ("first_stage_model.", _vae),
        ("cond_stage_model.transformer.", _clip_l),
    ),
    Architecture.SDXL: (
        ("model.diffusion_model.", _unet),
        ("first_stage_model.", _vae),
        ("conditioner.embedders.0.transformer.", _clip_l),
        ("conditioner.embedders.1.model.", _open_clip),
    ),
}
