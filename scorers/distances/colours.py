"""Distributions of colours in CIELAB, as the features of images whose tone is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scorers.networks.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Lowest and highest value of L*, a* and b*; sRGB reaches -87 to 99 in a* and -108 to 95 in b*.
RANGES = ((0.0, 100.0), (-110.0, 110.0), (-110.0, 110.0))
BIN_WIDTH = 0.5
_BINS = tuple(round((high - low) / BIN_WIDTH) for low, high in RANGES)

# sRGB to XYZ with white D65, IEC 61966-2-1; XYZ to CIELAB, CIE 15.
_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)
_CUBE_ROOT_FROM = (6 / 29) ** 3


def lab(image: Tensor) -> Tensor:
    """Convert an image, uint8 [3, h, w] in sRGB, to CIELAB: float64 [3, h, w]; L* in 0..100."""
    levels = image.double() / 255
    linear = torch.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_TO_XYZ, dtype=torch.float64) / torch.tensor(_WHITE, dtype=torch.float64)[:, None]
    relative = torch.einsum("ij,jhw->ihw", matrix, linear)
    x, y, z = torch.where(
        relative > _CUBE_ROOT_FROM, relative.clamp(min=0) ** (1 / 3), relative * (29 / 6) ** 2 / 3 + 4 / 29
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distribution(image: Tensor) -> Tensor:
    """Compute the cumulative distributions of L*, a* and b* over an image's pixels: float64 [bins of all three].

    Each is the share of pixels below the upper edges of bins of width `BIN_WIDTH`, so the mean over images of one size
    is that of their pooled pixels.
    """
    shares = []
    for channel, (low, _), bins in zip(lab(image), RANGES, _BINS, strict=True):
        index = ((channel.flatten() - low) / BIN_WIDTH).long().clamp(0, bins - 1)
        counts = torch.bincount(index, minlength=bins).double()
        shares.append(counts.cumsum(0) / counts.sum())
    return torch.cat(shares)


class ColourDistributions:
    """A feature network without a network: its features are `distribution`s."""

    digest = digest_of("colours in CIELAB", repr((RANGES, BIN_WIDTH)))

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Return the distributions of the images: float32 [n, d]."""
        return torch.stack([distribution(image.cpu()) for image in images]).float()
