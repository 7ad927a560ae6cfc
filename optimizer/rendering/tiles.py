"""Images encoded and decoded in overlapping tiles, which takes a small part of the memory of a large image.

The VAE's normalisation and attention then see a tile in place of the image, so the pixels are other ones. Only a study
whose spec asks for it does so, in all of its trials.
"""

from __future__ import annotations

from diffusers import AutoencoderKL

from optimizer.rendering.suite import LATENT_FACTOR
from studies.records.batch_limits import Size
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuiteSettings

# Side in pixels, as of the images that SD1.5 was trained on. diffusers takes the configuration's `sample_size`: for
# SDXL 1024, so that images of 1024 x 1024 would be decoded whole.
TILE = 512
TILED_IMAGES = 8  # held at once, in float32: all tiles before and after they are blended, rows of them, and the image


def use_tiles(vae: AutoencoderKL) -> None:
    """Make a VAE compute images with a side above `TILE` in tiles; others are computed as before."""
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // LATENT_FACTOR


def tiled_sizes(suite: SuiteSettings, settings: RenderSettings) -> tuple[Size, ...]:
    """Return the sizes of a suite's images that are decoded in tiles, sorted."""
    sizes = {item.image_size for item in suite.items()}
    return tuple(sorted(size for size in sizes if is_tiled(*size))) if settings.vae_tiling else ()


def is_tiled(width: int, height: int) -> bool:
    """Return whether an image of a size in pixels has more than one tile, if it has tiles at all."""
    return max(width, height) > TILE
