"""Small diffusers pipelines, made from a single file's tensors by diffusers' own conversion, without our code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.families.registry import model_family
from search_spaces.blocks import Architecture

# The schedule of noise with which SD1.5 and SDXL were trained, as their published schedulers have it.
TRAINED_NOISE: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def small_pipeline(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Any:
    """Build a pipeline whose U-Net and text encoders have `tensors` (float32); its VAE has no values."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**model_family(architecture).unet_config(shapes)),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(**model_family(architecture).text_configs(shapes)["text_encoder"])
        ),
        "scheduler": DDIMScheduler(**TRAINED_NOISE, steps_offset=1, clip_sample=False),
        "tokenizer": None,
    }
    with torch.device("meta"):
        parts["vae"] = AutoencoderKL(**model_family(architecture).vae_config(shapes))
    if architecture == Architecture.SDXL:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(
            CLIPTextConfig(**model_family(Architecture.SDXL).text_configs(shapes)["text_encoder_2"])
        )
    for component, values in converted(architecture, tensors).items():
        _load(parts[component], values)
    if architecture == Architecture.SDXL:
        return StableDiffusionXLPipeline(**parts, tokenizer_2=None, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def converted(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return component -> its parameters by live name, as diffusers converts a single file."""
    config = {"layers_per_block": 2} | ({"addition_embed_type": "text_time"} if architecture == "sdxl" else {})
    components = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), config),
        "text_encoder": convert_ldm_clip_checkpoint(dict(tensors)),
    }
    if architecture == Architecture.SDXL:
        components["text_encoder_2"] = convert_open_clip_checkpoint(
            None, dict(tensors), "conditioner.embedders.1.model."
        )
    return components


def parameters(module: nn.Module, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a module's parameters by the names of `like`: transformers 5.2 dropped CLIP-L's `text_model.`."""
    own = dict(module.named_parameters())
    return {name: own[name if name in own else name.removeprefix("text_model.")] for name in like if "_ids" not in name}


def _load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters(module, values).items():
            parameter.copy_(values[name])
