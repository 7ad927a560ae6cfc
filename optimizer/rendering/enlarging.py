"""From the first pass's latents to those that the second pass begins from, at the second's size.

A1111 enlarges either the latents (modules/processing.py, sample_hr_pass, with shared.latent_upscale_modes) or the
decoded picture in whole grey levels, which the VAE encodes again. It draws from the encoder's distribution; here its
mode is used, so that every trial gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional

from optimizer.rendering.contact_sheet import to_tensor
from optimizer.rendering.latents import LATENT_FACTOR, to_unet, to_vae
from studies.records.batch_limits import Size
from studies.spec.hires import LATENT_UPSCALERS, UpscalerName


class _Interpolation(NamedTuple):
    mode: str
    antialias: bool = False


_LATENT: Final[Mapping[UpscalerName, _Interpolation]] = {
    "latent": _Interpolation("bilinear"),
    "latent_antialiased": _Interpolation("bilinear", antialias=True),
    "latent_bicubic": _Interpolation("bicubic"),
    "latent_bicubic_antialiased": _Interpolation("bicubic", antialias=True),
    "latent_nearest": _Interpolation("nearest"),
    "latent_nearest_exact": _Interpolation("nearest-exact"),
}
_PIXELS: Final[Mapping[UpscalerName, Image.Resampling]] = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def needs_vae(upscaler: UpscalerName) -> bool:
    """Return whether the picture is enlarged, and not its latents."""
    return upscaler not in LATENT_UPSCALERS


@torch.inference_mode()
def enlarged(latents: Tensor, size: Size, upscaler: UpscalerName, vae: AutoencoderKL) -> Tensor:
    """Return latents [n, c, h / 8, w / 8] float32 at another size.

    Args:
        latents: of the first pass, [n, c, h', w'] float32.
        size: width and height in pixels.
    """
    if needs_vae(upscaler):
        return torch.cat([_through_pixels(each, size, _PIXELS[upscaler], vae) for each in torch.split(latents, 1)])
    width, height = size
    cells, (mode, antialias) = (height // LATENT_FACTOR, width // LATENT_FACTOR), _LATENT[upscaler]
    return functional.interpolate(latents, size=cells, mode=mode, antialias=antialias)


def _through_pixels(latents: Tensor, size: Size, resampling: Image.Resampling, vae: AutoencoderKL) -> Tensor:
    """Decode the latents [1, c, h', w'] of a picture, enlarge it and encode it.

    Where the decoder gives no number the result has none either, so that the image counts as broken in the end.
    """
    pixels = vae.decode(to_vae(latents.to(vae.dtype), vae)).sample.float()[0]
    levels = ((pixels / 2 + 0.5).clamp(0, 1).nan_to_num(0) * 255).to(torch.uint8)  # cut, as A1111 cuts them
    picture = Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()).resize(size, resampling)
    levels = to_tensor(picture).to(latents.device)
    encoded = vae.encode((levels[None].float() / 127.5 - 1).to(vae.dtype)).latent_dist.mode()
    found = to_unet(encoded, vae).float()
    return found if bool(pixels.isfinite().all()) else torch.full_like(found, torch.nan)
