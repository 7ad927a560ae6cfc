"""Statistics of the pixels themselves: no weights, no taste, good for noticing what a merge did to the look.

Each function takes one uint8 image [3, h, w] and returns a Python float. They are poor objectives on their
own (noise is sharp, neon is colourful) and useful next to others, or as constraints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scorers import catalogue
from scorers.errors import SuiteImagesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scorers.config import PixelSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # Rec. 601


def luma(images: Tensor) -> Tensor:
    """Rec. 601 luma, float64 [..., h, w] in the levels of the images and on their device, from [..., 3, h, w]."""
    red, green, blue = images.double().unbind(-3)
    return _RED * red + _GREEN * green + _BLUE * blue


def sharpness(image: Tensor) -> float:
    """Standard deviation, in grey levels, of the 4-neighbour Laplacian of luma over the inner pixels; >= 0.

    The root of the "variance of Laplacian" used as a focus measure: Pech-Pacheco et al. 2000, Diatom
    autofocusing in brightfield microscopy. The root keeps one busy image from deciding the mean of a suite.
    Raises SuiteImagesError for images under 3 x 3 pixels, which have no inner pixel.
    """
    if min(image.shape[-2:]) < 3:
        raise SuiteImagesError(f"sharpness needs images of 3 x 3 pixels or more, got {list(image.shape[-2:])}")
    y = luma(image)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(laplacian.std(correction=0))


def contrast(image: Tensor) -> float:
    """RMS contrast: standard deviation of luma in 0..1; 0 flat, 0.5 half black and half white.

    Peli 1990, Contrast in complex images, https://doi.org/10.1364/JOSAA.7.002032, equation 3.
    """
    return float((luma(image) / 255).std(correction=0))


def colourfulness(image: Tensor) -> float:
    """Hasler and Süsstrunk's M3, in levels of 0..255: 0 grey, 59 quite, 109 extremely colourful.

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
    """Share, 0..1, of pixels whose three channels are all 0 or all 255: black or white without any detail.

    A single channel at its end is a saturated colour, which is no fault.
    """
    lost = (image == 0).all(dim=0) | (image == 255).all(dim=0)
    return float(lost.double().mean())


class PixelScorer:
    """One of the statistics above, over a suite."""

    def __init__(self, info: ScorerInfo, measure: Callable[[Tensor], float]) -> None:
        self.info = info
        self._measure = measure

    def score(self, images: SuiteImages) -> Tensor:
        """Float64 [n]."""
        return torch.tensor([self._measure(image) for image in images.images], dtype=torch.float64)


def build_sharpness(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """A scorer of `sharpness`."""
    return PixelScorer(catalogue.SHARPNESS, sharpness)


def build_contrast(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """A scorer of `contrast`."""
    return PixelScorer(catalogue.CONTRAST, contrast)


def build_colourfulness(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """A scorer of `colourfulness`."""
    return PixelScorer(catalogue.COLOURFULNESS, colourfulness)


def build_clipping(_settings: PixelSettings, _context: BuildContext) -> PixelScorer:
    """A scorer of `clipping`."""
    return PixelScorer(catalogue.CLIPPING, clipping)
