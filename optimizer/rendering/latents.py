"""Scaling between a VAE's latents and those on which its U-Net was trained.

It is one factor, and for Playground 2.5 also a mean and a standard deviation for each channel. diffusers keeps the
numbers in the VAE's configuration (`scaling_factor`, `latents_mean`, `latents_std`).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from optimizer.rendering.prediction import Prediction

LATENT_FACTOR = 8  # side of the square of pixels that a latent cell covers, in SD1.5 and SDXL
PLAYGROUND_SCALE = 0.5  # ComfyUI: comfy/latent_formats.py; diffusers: PLAYGROUND_VAE_SCALING_FACTOR


def latent_config(prediction: Prediction) -> dict[str, Any]:
    """Return the arguments of the VAE's class that depend on the prediction."""
    if prediction.latents is None:
        return {}
    statistics = prediction.latents
    return {"scaling_factor": PLAYGROUND_SCALE, "latents_mean": statistics.mean, "latents_std": statistics.std}


def to_unet(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Scale the VAE's latents [n, c, h, w] to the U-Net's: (z - mean) * scale / std."""
    scale: float = vae.config.scaling_factor
    statistics = _statistics(latents, vae)
    if statistics is None:
        return latents * scale
    mean, std = statistics
    return (latents - mean) * scale / std


def to_vae(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Scale the U-Net's latents [n, c, h, w] to the VAE's, the inverse of `to_unet`: z * std / scale + mean."""
    scale: float = vae.config.scaling_factor
    statistics = _statistics(latents, vae)
    if statistics is None:
        return latents / scale
    mean, std = statistics
    return latents * std / scale + mean


def _statistics(latents: Tensor, vae: AutoencoderKL) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation, each [1, c, 1, 1]; None if the VAE has none."""
    if vae.config.latents_mean is None:
        return None
    mean, std = (
        torch.tensor(values, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
