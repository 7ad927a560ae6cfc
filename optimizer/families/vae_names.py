"""Names of the parameters of Stable Diffusion's VAE: in files (the research code's), and live (diffusers').

Tests compare this with the conversion that diffusers does when it loads a single file.
"""

from __future__ import annotations

import re

from optimizer.families.views import LiveView, StoredPart

_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(?:block\.(\d+)|(downsample|upsample))\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(?:block_([12])|attn_1)\.(.+)")
VAE_LEVELS = 4  # of every SD1.5 and SDXL VAE; files number the decoder's levels in reverse


def vae_views(rest: str, rank: int) -> tuple[LiveView, ...]:
    """Return the live parameter that a tensor of the VAE holds.

    Attention consists of 1x1 convolutions in the file, and of linear layers in the live model.

    Args:
        rest: the tensor's key without the VAE's prefix.
        rank: the tensor's number of dimensions.
    """
    name = _vae_name(rest)
    linear = ".attentions.0.to_" in name and rank == 4
    return (LiveView("vae", name, "linear" if linear else "whole"),)


def _vae_name(rest: str) -> str:
    if block := _VAE_BLOCK.fullmatch(rest):
        side, level, layer, sampler, inner = block[1], int(block[2]), block[3], block[4], block[5]
        live_block = (
            f"encoder.down_blocks.{level}" if side == "encoder.down" else f"decoder.up_blocks.{VAE_LEVELS - 1 - level}"
        )
        if sampler:
            return f"{live_block}.{sampler}rs.0.{inner}"
        return f"{live_block}.resnets.{layer}.{inner.replace('nin_shortcut', 'conv_shortcut')}"
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
# some programs rename the attention's leaves alone
_LIVE_VAE_MIDDLE = re.compile(
    r"(encoder|decoder)\.(?:mid_block\.resnets\.([01])|mid_block\.attentions\.0|mid\.attn_1)\.(.+)"
)
_STORED_SHORTCUT = re.compile(r"(?:encoder\.down|decoder\.up)\.\d+\.block\.\d+\.conv_shortcut\.(?:weight|bias)")
_LIVE_VAE_END = re.compile(r"((?:encoder|decoder)\.)(conv_in|conv_norm_out|conv_out)\.(.+)|(?:post_)?quant_conv\..+")


def vae_part(name: str, prefix: str, rank: int) -> StoredPart | None:
    """Return where a file stores a parameter of AutoencoderKL; None if no file has it.

    Args:
        name: as diffusers saves it; the older names of the attention (`query`, `proj_attn`) are accepted too, and
            names that are diffusers' within the attention alone (`mid.attn_1.to_q`) or in a shortcut alone
            (`down.1.block.0.conv_shortcut`).
        prefix: of the VAE's keys.
        rank: the parameter's number of dimensions.
    """
    stored = _ldm_vae_name(name)
    if stored is None:
        return None
    linear = ".mid.attn_1." in stored and rank == 2
    return StoredPart(prefix + stored, "linear" if linear else "whole")


def _ldm_vae_name(name: str) -> str | None:
    if block := _LIVE_VAE_BLOCK.fullmatch(name):
        side, level, kind, layer, inner = block[1], int(block[2]), block[3], block[4], block[5]
        stored_level = f"{side}.{level if side == 'encoder.down' else VAE_LEVELS - 1 - level}"
        if kind != "resnets":
            return f"{stored_level}.{kind.removesuffix('rs')}.{inner}"
        return f"{stored_level}.block.{layer}.{inner.replace('conv_shortcut', 'nin_shortcut')}"
    if middle := _LIVE_VAE_MIDDLE.fullmatch(name):
        coder, number, inner = middle[1], middle[2], middle[3]
        if number:
            return f"{coder}.mid.block_{int(number) + 1}.{inner}"
        stem, _, leaf = inner.rpartition(".")
        return f"{coder}.mid.attn_1.{_LDM_VAE_ATTENTION[stem]}.{leaf}" if stem in _LDM_VAE_ATTENTION else None
    if _STORED_SHORTCUT.fullmatch(name):
        return name.replace("conv_shortcut", "nin_shortcut")
    return name.replace("conv_norm_out", "norm_out") if _LIVE_VAE_END.fullmatch(name) else None


# A text encoder's names have an `encoder.` as well, so more than that must match.
_PREFIXED = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:(?:encoder|decoder)\.(?:conv_in|conv_out|conv_norm_out|norm_out|(?:down|up|mid)(?:_blocks?)?)"
    r"|(?:post_)?quant_conv)\..+"
)


def vae_prefix(key: str) -> str | None:
    """Return what stands before the name of a VAE's tensor, with its last dot; None for a key without such a name."""
    match = _PREFIXED.fullmatch(key)
    return None if match is None else match["prefix"]
