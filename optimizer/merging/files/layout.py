"""File key <-> live parameter: where each tensor of a checkpoint file lives in the running models.

Stable Diffusion files name their tensors after the original research code; the running models are
diffusers' UNet2DConditionModel and AutoencoderKL and transformers' CLIP text models. Every live
parameter is a *view* of a tensor as the file stores it: the same, reshaped, transposed, or one third of
the fused attention projection of OpenCLIP. So a merge can stay in the file's layout, and nothing is
converted between merging, rendering and exporting.

The same names, read backwards, put a diffusers folder into the file's layout (`stored_part`).

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
                index = THIRDS.index(third)
                return stored[index * rows : (index + 1) * rows]


def live_views(key: str, architecture: Architecture, rank: int) -> tuple[LiveView, ...]:
    """Where one stored tensor lives.

    Args:
        key: name in the checkpoint file.
        rank: number of dimensions of the stored tensor.

    Returns:
        No view for what no live model has (`position_ids`, `logit_scale`, CLIP-L's projection, markers, EMA
        copies), three for a fused attention projection, one otherwise.
    """
    for prefix, place in _PREFIXES[architecture]:
        if key.startswith(prefix):
            return place(key.removeprefix(prefix), rank)
    return ()


THIRDS: tuple[Reading, Reading, Reading] = ("first third", "second third", "last third")


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Where one live parameter stands in a single file: under which name, and how the live one looks at it."""

    key: str
    reading: Reading = "whole"

    def shape_of(self, live: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the file; of a third, that third's."""
        match self.reading:
            case "linear":
                return (*live, 1, 1)
            case "transposed":
                return live[::-1]
            case _:
                return live

    def of(self, live: Tensor) -> Tensor:
        """The live parameter as the file stores it, a view; thirds are to be put together by the caller."""
        return live.t() if self.reading == "transposed" else live.reshape(self.shape_of(tuple(live.shape)))


def stored_part(component: Component, name: str, architecture: Architecture, rank: int) -> StoredPart | None:
    """Where a parameter of diffusers' or transformers' models stands in a single file: the inverse of `live_views`.

    Args:
        name: as these libraries save it; the older names of the VAE's attention (`query`, `proj_attn`) and CLIP
            names without `text_model.` are understood too.
        rank: number of dimensions of the parameter.

    Returns:
        None for a name that no SD1.5 or SDXL model has.
    """
    match component:
        case "unet":
            part = _unet_part(name, architecture)
        case "vae":
            part = _vae_part(name, rank)
        case "text_encoder":
            part = _clip_l_part(name, architecture)
        case "text_encoder_2":
            part = _open_clip_part(name)
    return part


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


_LDM_RESNET = {live: stored for stored, live in _RESNET.items()}
_LDM_UNET_ENDS = {live: stored for stored, live in _UNET_ENDS.items()}
_LIVE_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_LIVE_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
# The upsampler is the module after residual block and attention; the deepest level of SD1.5 has no attention.
_LEVELS_WITHOUT_ATTENTION = {Architecture.SD15: {0}, Architecture.SDXL: {2}}


def _unet_part(name: str, architecture: Architecture) -> StoredPart | None:
    stem, _, leaf = name.rpartition(".")
    if stem in _LDM_UNET_ENDS:
        return StoredPart(f"model.diffusion_model.{_LDM_UNET_ENDS[stem]}.{leaf}")
    if middle := _LIVE_MIDDLE.fullmatch(name):
        kind, index, inner = middle[1], int(middle[2]), middle[3]
        number = 1 if kind == "attentions" else 2 * index
        return StoredPart(f"model.diffusion_model.middle_block.{number}.{_ldm_inner(kind, inner)}")
    if block := _LIVE_BLOCK.fullmatch(name):
        side, level, kind, layer, inner = block[1], int(block[2]), block[3], int(block[4]), block[5]
        if side == "down":
            home = f"input_blocks.{1 + 3 * level + (2 if kind == 'downsamplers' else layer)}"
            inner = inner.replace("conv.", "op.", 1) if kind == "downsamplers" else _ldm_inner(kind, inner)
            return StoredPart(f"model.diffusion_model.{home}.{int(kind == 'attentions')}.{inner}")
        home = f"output_blocks.{3 * level + (2 if kind == 'upsamplers' else layer)}"
        last = 1 if level in _LEVELS_WITHOUT_ATTENTION[architecture] else 2
        index = {"resnets": 0, "attentions": 1}.get(kind, last)
        return StoredPart(f"model.diffusion_model.{home}.{index}.{_ldm_inner(kind, inner)}")
    return None


def _ldm_inner(kind: str, inner: str) -> str:
    stem, _, leaf = inner.rpartition(".")
    return f"{_LDM_RESNET[stem]}.{leaf}" if kind == "resnets" and stem in _LDM_RESNET else inner


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


_LDM_VAE_ATTENTION = {live: stored for stored, live in _VAE_ATTENTION.items()} | {
    "query": "q",  # as diffusers before 0.18 named them
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_LIVE_VAE_BLOCK = re.compile(
    r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_LIVE_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(?:resnets\.([01])|attentions\.0)\.(.+)")
_LIVE_VAE_END = re.compile(r"((?:encoder|decoder)\.)(conv_in|conv_norm_out|conv_out)\.(.+)|(?:post_)?quant_conv\..+")


def _vae_part(name: str, rank: int) -> StoredPart | None:
    """The file's attention is made of 1x1 convolutions, the live one of linear layers."""
    stored = _ldm_vae_name(name)
    if stored is None:
        return None
    linear = ".mid.attn_1." in stored and rank == 2
    return StoredPart(f"first_stage_model.{stored}", "linear" if linear else "whole")


def _ldm_vae_name(name: str) -> str | None:
    if block := _LIVE_VAE_BLOCK.fullmatch(name):
        side, level, kind, layer, inner = block[1], int(block[2]), block[3], block[4], block[5]
        home = f"{side}.{level if side == 'encoder.down' else VAE_LEVELS - 1 - level}"
        if kind != "resnets":
            return f"{home}.{kind.removesuffix('rs')}.{inner}"
        return f"{home}.block.{layer}.{inner.replace('conv_shortcut', 'nin_shortcut')}"
    if middle := _LIVE_VAE_MIDDLE.fullmatch(name):
        coder, number, inner = middle[1], middle[2], middle[3]
        if number:
            return f"{coder}.mid.block_{int(number) + 1}.{inner}"
        stem, _, leaf = inner.rpartition(".")
        return f"{coder}.mid.attn_1.{_LDM_VAE_ATTENTION[stem]}.{leaf}" if stem in _LDM_VAE_ATTENTION else None
    return name.replace("conv_norm_out", "norm_out") if _LIVE_VAE_END.fullmatch(name) else None


# --------------------------------------------------------------------------------- text encoders


def _clip_l(rest: str, rank: int) -> tuple[LiveView, ...]:  # noqa: ARG001
    """What else stands beside the text model, such as a `text_projection`, is kept in files and renders nothing."""
    live = _LIVE_CLIP.fullmatch(rest) is not None and not rest.endswith("position_ids")
    return (LiveView("text_encoder", rest),) if live else ()


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
_THIRDS: tuple[tuple[str, Reading], ...] = tuple(zip("qkv", THIRDS, strict=True))


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


_LDM_OPEN_CLIP_ENDS = {live: stored for stored, live in _OPEN_CLIP_ENDS.items()}
_LDM_OPEN_CLIP_LAYER = {live: stored for stored, live in _OPEN_CLIP_LAYER.items()}
_LIVE_CLIP = re.compile(r"(?:text_model\.)?((?:embeddings|encoder|final_layer_norm)\..+)")
_LIVE_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_LIVE_CLIP_ATTENTION = re.compile(r"self_attn\.([qkv])_proj")


def _clip_l_part(name: str, architecture: Architecture) -> StoredPart | None:
    home = "cond_stage_model" if architecture == Architecture.SD15 else "conditioner.embedders.0"
    found = _LIVE_CLIP.fullmatch(name)
    return StoredPart(f"{home}.transformer.text_model.{found[1]}") if found else None


def _open_clip_part(name: str) -> StoredPart | None:
    home = "conditioner.embedders.1.model."
    if name == "text_projection.weight":
        return StoredPart(f"{home}text_projection", "transposed")
    found = _LIVE_CLIP.fullmatch(name)
    if found is None:
        return None
    if found[1] in _LDM_OPEN_CLIP_ENDS:
        return StoredPart(home + _LDM_OPEN_CLIP_ENDS[found[1]])
    layer = _LIVE_CLIP_LAYER.fullmatch(found[1])
    if layer is None:
        return None
    home, inner, leaf = f"{home}transformer.resblocks.{layer[1]}.", layer[2], layer[3]
    if attention := _LIVE_CLIP_ATTENTION.fullmatch(inner):
        return StoredPart(f"{home}attn.in_proj_{leaf}", dict(_THIRDS)[attention[1]])
    return StoredPart(f"{home}{_LDM_OPEN_CLIP_LAYER[inner]}.{leaf}") if inner in _LDM_OPEN_CLIP_LAYER else None


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
