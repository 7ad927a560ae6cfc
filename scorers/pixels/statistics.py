"""Pixel statistics: without weights or taste, they show how a merge changed the look of images.

Each function takes one image, uint8 [3, h, w], and returns a float. They are poor objectives on their own (noise is
sharp, neon is colourful), but useful beside others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scorers.errors import SuiteImagesError
from scorers.pixels import kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scorers.pixels.kinds import PixelSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # Rec. 601


def luma(images: Tensor) -> Tensor:
    """Compute Rec. 601 luma of [..., 3, h, w]: float64 [..., h, w] in the levels of the images, on their device."""
    red, green, blue = images.double().unbind(-3)
    return _RED * red + _GREEN * green + _BLUE * blue


def sharpness(image: Tensor) -> float:
    """Compute the standard deviation, in grey levels, of the 4-neighbour Laplacian of luma over the inner pixels.

    It is the square root of the "variance of Laplacian", a focus measure: Pech-Pacheco et al. 2000, Diatom autofocusing
    in brightfield microscopy. The root keeps one busy image from dominating the mean of a suite.

    Raises:
        SuiteImagesError: the image is smaller than 3 x 3 pixels and has no inner pixel.
    """
    if min(image.shape[-2:]) < 3:
        raise SuiteImagesError(
            f"sharpness needs images of at least 3 x 3 pixels, got {list(image.shape[-2:])}: render larger ones"
        )
    y = luma(image)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(laplacian.std(correction=0))


def contrast(image: Tensor) -> float:
    """Compute the RMS contrast, the standard deviation of luma in 0..1: 0 is flat, 0.5 half black and half white.

    Peli 1990, Contrast in complex images, https://doi.org/10.1364/JOSAA.7.002032, equation 3.
    """
    return float((luma(image) / 255).std(correction=0))


def colourfulness(image: Tensor) -> float:
    """Compute Hasler and Süsstrunk's M3 in levels of 0..255: 0 is grey, 59 quite, 109 extremely colourful.

        rg = R - G,  yb = (R + G) / 2 - B
        M3 = sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)

    Hasler and Süsstrunk 2003, Measuring colourfulness in natural images, https://doi.org/10.1117/12.477378.
    """
    red, green, blue = image.cpu().double()
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(1)
    spread = opponents.var(dim=1, correction=0).sum().sqrt()
    shift = opponents.mean(dim=1).square().sum().sqrt()
    return float(spread + 0.3 * shift)


def clipping(image: Tensor) -> float:
    """Compute the share, 0..1, of pixels that are pure black or pure white: all three channels are 0, or all are 255.

    A single channel at 0 or 255 is a saturated colour, which is not a fault.
    """
    clipped = (image == 0).all(dim=0) | (image == 255).all(dim=0)
    return float(clipped.double().mean())


class PixelScorer:
    """A scorer by one of the statistics above."""

    def __init__(self, info: ScorerInfo, measure: Callable[[Tensor], float]) -> None:
        self.info = info
        self._measure = measure

    def score(self, images: SuiteImages) -> Tensor:
        """Return the statistic of each image, float64 [n]."""
        return torch.tensor([self._measure(image) for image in images.images], dtype=torch.float64)


def build_sharpness(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """Build a scorer of `sharpness`."""
    return PixelScorer(kinds.SHARPNESS, sharpness)


def build_contrast(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """Build a scorer of `contrast`."""
    return PixelScorer(kinds.CONTRAST, contrast)


def build_colourfulness(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """Build a scorer of `colourfulness`."""
    return PixelScorer(kinds.COLOURFULNESS, colourfulness)


def build_clipping(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """Build a scorer of `clipping`."""
    return PixelScorer(kinds.CLIPPING, clipping)
