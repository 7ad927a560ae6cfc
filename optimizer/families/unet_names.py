"""Names of the parameters of Stable Diffusion's U-Net: in files (the research code's), and live (diffusers').

Tests compare this with the conversion that diffusers does when it loads a single file.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from optimizer.families.views import LiveView, StoredPart

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


def unet_views(rest: str) -> tuple[LiveView, ...]:
    """Return the live parameter that a tensor of the U-Net holds; none for tensors that the live model lacks.

    Args:
        rest: the tensor's key without the U-Net's prefix.
    """
    name = _unet_name(rest)
    return (LiveView("unet", name),) if name else ()


def _unet_name(rest: str) -> str | None:
    stem, _, leaf = rest.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}"
    if middle := _UNET_MIDDLE.fullmatch(rest):
        index, inner = int(middle[1]), middle[2]
        module = "attentions.0" if index == 1 else f"resnets.{index // 2}"
        return f"mid_block.{module}.{_live_inner(inner)}"
    if block := _UNET_BLOCK.fullmatch(rest):
        side, number, index, inner = block[1], int(block[2]), int(block[3]), block[4]
        return _down_name(number, index, inner) if side == "input_blocks" else _up_name(number, index, inner)
    return None


def _down_name(number: int, index: int, inner: str) -> str:
    """Name a parameter of an input block: blocks 1, 2 and 3 are level 0 (two residual blocks, one downsampler)."""
    level, layer = divmod(number - 1, 3)
    if layer == 2:
        return f"down_blocks.{level}.downsamplers.0.{inner.replace('op.', 'conv.', 1)}"
    kind = "resnets" if index == 0 else "attentions"
    return f"down_blocks.{level}.{kind}.{layer}.{_live_inner(inner)}"


def _up_name(number: int, index: int, inner: str) -> str:
    """Name a parameter of an output block: blocks 0, 1 and 2 are level 0, the last module may be an upsampler."""
    level, layer = divmod(number, 3)
    if inner.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{inner}"
    kind = "resnets" if index == 0 else "attentions"
    return f"up_blocks.{level}.{kind}.{layer}.{_live_inner(inner)}"


def _live_inner(inner: str) -> str:
    """Rename a parameter within its residual block; within attention blocks both sides use the same names."""
    stem, _, leaf = inner.rpartition(".")
    return f"{_RESNET[stem]}.{leaf}" if stem in _RESNET else inner


_LDM_RESNET = {live: stored for stored, live in _RESNET.items()}
_LDM_UNET_ENDS = {live: stored for stored, live in _UNET_ENDS.items()}
_LIVE_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_LIVE_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_part(name: str, prefix: str, up_levels_without_attention: Collection[int]) -> StoredPart | None:
    """Return where a file stores a parameter of UNet2DConditionModel; None if no file has it.

    Args:
        prefix: of the U-Net's keys.
        up_levels_without_attention: of the output blocks, counted from the deepest. They determine the number of an
            upsampler, which is the module after residual block and attention.
    """
    stored = _stored_name(name, up_levels_without_attention)
    return None if stored is None else StoredPart(prefix + stored)


def _stored_name(name: str, up_levels_without_attention: Collection[int]) -> str | None:
    stem, _, leaf = name.rpartition(".")
    if stem in _LDM_UNET_ENDS:
        return f"{_LDM_UNET_ENDS[stem]}.{leaf}"
    if middle := _LIVE_MIDDLE.fullmatch(name):
        kind, index, inner = middle[1], int(middle[2]), middle[3]
        number = 1 if kind == "attentions" else 2 * index
        return f"middle_block.{number}.{_ldm_inner(kind, inner)}"
    if block := _LIVE_BLOCK.fullmatch(name):
        side, level, kind, layer, inner = block[1], int(block[2]), block[3], int(block[4]), block[5]
        if side == "down":
            stored_block = f"input_blocks.{1 + 3 * level + (2 if kind == 'downsamplers' else layer)}"
            inner = inner.replace("conv.", "op.", 1) if kind == "downsamplers" else _ldm_inner(kind, inner)
            return f"{stored_block}.{int(kind == 'attentions')}.{inner}"
        stored_block = f"output_blocks.{3 * level + (2 if kind == 'upsamplers' else layer)}"
        upsampler_index = 1 if level in up_levels_without_attention else 2
        index = {"resnets": 0, "attentions": 1}.get(kind, upsampler_index)
        return f"{stored_block}.{index}.{_ldm_inner(kind, inner)}"
    return None


def _ldm_inner(kind: str, inner: str) -> str:
    stem, _, leaf = inner.rpartition(".")
    return f"{_LDM_RESNET[stem]}.{leaf}" if kind == "resnets" and stem in _LDM_RESNET else inner
