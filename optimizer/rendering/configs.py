"""Model configurations read off a checkpoint's tensor shapes, so that no config file or hub is needed.

What shapes cannot tell is fixed by the family: 32 groups in every normalisation, 8 attention heads in SD1.5's
U-Net, 64 channels a head in SDXL's U-Net and in the CLIP text models, and the latent scale factors of
Stable Diffusion 1 (0.18215) and SDXL (0.13025).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from optimizer.errors import CheckpointError
from search_spaces.blocks import Architecture

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
HEAD_WIDTH = 64
LATENT_SCALE = {Architecture.SD15: 0.18215, Architecture.SDXL: 0.13025}
CLIP_LAYERS = {768: 12, 1280: 32}  # width -> layers of CLIP-L and OpenCLIP-G
TIME_IDS = 6  # SDXL is told original size, crop and target size: six numbers


def unet_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel."""
    widths = _level_widths(shapes)
    depths = [_transformer_depth(shapes, f"{UNET}input_blocks.{3 * level + 1}.1.") for level in range(len(widths))]
    linear = len(_shape(shapes, f"{UNET}middle_block.1.proj_in.weight")) == 2
    config: dict[str, Any] = {
        "sample_size": 64 if architecture == Architecture.SD15 else 128,
        "in_channels": _shape(shapes, f"{UNET}input_blocks.0.0.weight")[1],
        "out_channels": _shape(shapes, f"{UNET}out.2.weight")[0],
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        "transformer_layers_per_block": tuple(depth or 1 for depth in depths),
        "cross_attention_dim": _cross_attention_width(shapes),
        # diffusers' name is a historical mistake: this is the number of heads
        "attention_head_dim": 8
        if architecture == Architecture.SD15
        else tuple(max(1, width // HEAD_WIDTH) for width in widths),
        "use_linear_projection": linear,
        "norm_num_groups": 32,
    }
    middle = _transformer_depth(shapes, f"{UNET}middle_block.1.")
    config["transformer_layers_per_block"] = (*config["transformer_layers_per_block"][:-1], middle)
    if architecture == Architecture.SDXL:
        projected = _shape(shapes, f"{UNET}label_emb.0.0.weight")[1]
        pooled = _shape(shapes, "conditioner.embedders.1.model.text_projection")[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (projected - pooled) // TIME_IDS,
            "projection_class_embeddings_input_dim": projected,
        }
    return config


def _level_widths(shapes: Shapes) -> list[int]:
    """Channels of each level: its first residual block is input block 1, 4, 7 ..."""
    widths: list[int] = []
    while (key := f"{UNET}input_blocks.{3 * len(widths) + 1}.0.out_layers.3.weight") in shapes:
        widths.append(shapes[key][0])
    if not widths:
        raise CheckpointError(f"no U-Net: {UNET}input_blocks.1.0.out_layers.3.weight is missing; use a full checkpoint")
    return widths


def _transformer_depth(shapes: Shapes, prefix: str) -> int:
    return _count(shapes, re.compile(re.escape(prefix) + r"transformer_blocks\.(\d+)\."))


def _cross_attention_width(shapes: Shapes) -> int:
    return _shape(shapes, f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1]


def vae_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL."""
    levels = _count(shapes, re.compile(re.escape(f"{VAE}encoder.down.") + r"(\d+)\."))
    widths = [_shape(shapes, f"{VAE}encoder.down.{level}.block.0.conv2.weight")[0] for level in range(levels)]
    return {
        "in_channels": _shape(shapes, f"{VAE}encoder.conv_in.weight")[1],
        "out_channels": _shape(shapes, f"{VAE}decoder.conv_out.weight")[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(widths),
        "layers_per_block": _count(shapes, re.compile(re.escape(f"{VAE}encoder.down.0.block.") + r"(\d+)\.")),
        "latent_channels": _shape(shapes, f"{VAE}post_quant_conv.weight")[1],
        "norm_num_groups": 32,
        "sample_size": 512 if architecture == Architecture.SD15 else 1024,
        "scaling_factor": LATENT_SCALE[architecture],
    }


def clip_l_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig for the first text encoder."""
    home = "cond_stage_model" if architecture == Architecture.SD15 else "conditioner.embedders.0"
    prefix = f"{home}.transformer.text_model."
    vocabulary, width = _shape(shapes, f"{prefix}embeddings.token_embedding.weight")
    return {
        **_clip_shared(vocabulary, width),
        "max_position_embeddings": _shape(shapes, f"{prefix}embeddings.position_embedding.weight")[0],
        "intermediate_size": _shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _clip_layers(shapes, f"{prefix}encoder.layers.", width),
        "hidden_act": "quick_gelu",
    }


def open_clip_config(shapes: Shapes) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig for SDXL's second text encoder."""
    prefix = "conditioner.embedders.1.model."
    vocabulary, width = _shape(shapes, f"{prefix}token_embedding.weight")
    return {
        **_clip_shared(vocabulary, width),
        "max_position_embeddings": _shape(shapes, f"{prefix}positional_embedding")[0],
        "intermediate_size": _shape(shapes, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": _clip_layers(shapes, f"{prefix}transformer.resblocks.", width),
        "hidden_act": "gelu",
        "projection_dim": _shape(shapes, f"{prefix}text_projection")[1],
    }


def _clip_shared(vocabulary: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _clip_layers(shapes: Shapes, prefix: str, width: int) -> int:
    """Number of layers; some files leave out the last, and one layer less would mean another layer to read."""
    found, known = _count(shapes, re.compile(re.escape(prefix) + r"(\d+)\.")), CLIP_LAYERS.get(width, 0)
    if found < known:
        raise CheckpointError(
            f"{prefix}{found} is missing: the text encoder has {found} of {known} layers; "
            "make a full checkpoint parent A"
        )
    return found


def _count(shapes: Shapes, pattern: re.Pattern[str]) -> int:
    """One more than the largest number the pattern's group matches at the start of a key; 0 for none."""
    return max((int(match[1]) + 1 for key in shapes if (match := pattern.match(key))), default=0)


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(
            f"{key} is missing: a full checkpoint (U-Net, VAE and text encoders) is needed; "
            "one of the parents must have what the others lack"
        )
    return shapes[key]
