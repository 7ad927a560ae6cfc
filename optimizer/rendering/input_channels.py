"""The extra input channels of inpainting and instruction models, for a suite that has only prompts.

A suite has no image to edit, so these models are rendered as text-to-image programs render them:

- inpainting (noise, mask, latents of the masked image): everything is masked (1), and the masked image is mid-grey
  (0 in [-1, 1]), encoded by the VAE, as A1111 does (modules/processing.py, txt2img_image_conditioning). The order is
  that of diffusers' StableDiffusionInpaintPipeline and of the original inpainting model.
- instruction (InstructPix2Pix: noise, latents of the image): the image's latents are zeros, as in ComfyUI without an
  image (comfy/model_base.py, class IP2P). Guidance is by text, as usual.

A1111 samples from the VAE's posterior. Here its mode is used, so that every trial gets the same channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from optimizer.errors import RenderError
from optimizer.rendering.latents import LATENT_FACTOR, to_unet

UNetKind = Literal["text", "inpainting", "instruction"]


def unet_kind(unet_channels: int, latent_channels: int) -> UNetKind:
    """Return what a U-Net was trained for, by its number of input channels.

    Raises:
        RenderError: it needs an input that a suite does not have, such as a depth map.
    """
    kinds: dict[int, UNetKind] = {
        latent_channels: "text",
        2 * latent_channels + 1: "inpainting",
        2 * latent_channels: "instruction",
    }
    if unet_channels not in kinds:
        supported = ", ".join(f"{count} ({kind})" for count, kind in kinds.items())
        raise RenderError(
            f"the U-Net takes {unet_channels} input channels, a suite can be rendered with {supported}: "
            "use a text-to-image, inpainting or instruction model"
        )
    return kinds[unet_channels]


@torch.inference_mode()
def image_channels(kind: UNetKind, vae: AutoencoderKL, width: int, height: int, dtype: torch.dtype) -> Tensor | None:
    """Return the channels that follow the noise [1, c, height / 8, width / 8]; None for a text-to-image model.

    Those of an inpainting model depend on the VAE's present weights.

    Args:
        width, height: of the image, in pixels.
        dtype: of the result.
    """
    if kind == "text":
        return None
    size = (height // LATENT_FACTOR, width // LATENT_FACTOR)
    if kind == "instruction":
        return torch.zeros((1, vae.config.latent_channels, *size), dtype=dtype, device=vae.device)
    grey = torch.zeros((1, vae.config.in_channels, height, width), dtype=vae.dtype, device=vae.device)
    masked = to_unet(vae.encode(grey).latent_dist.mode(), vae).to(dtype)
    return torch.cat([masked.new_ones((1, 1, *size)), masked], dim=1)
