"""Images that are no images: what a broken merge renders. A trial with one of them fails, it gets no score.

Learned scorers like some of these: noise has been given .99 by classifiers. So they are looked for before
scoring, with tests that are simple enough to be trusted and strict enough never to hit a picture that is
merely dark, plain, grainy or drawn with few lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scorers.pixels import luma

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Largest value of a black image, on 0..1: five grey levels, which no screen shows.
BLACK_MAX = 5 / 255
#: Largest standard deviation of any channel of a flat image, on 0..1: two and a half grey levels.
FLAT_STD = 0.01
#: Noise is strong: weaker than this it may be grain on a plain picture ...
NOISE_MIN_STD = 0.08
#: ... has neighbours that know nothing of each other (in a picture they resemble each other) ...
NOISE_MAX_CORRELATION = 0.15
#: ... and fills the frame evenly: the calmest of 4 x 4 tiles has at least this share of the overall
#: deviation, where drawings on paper and stars on a sky have empty tiles.
NOISE_MIN_TILE_SHARE = 0.6
#: Smaller images have too few pixels to tell noise from a picture.
NOISE_MIN_PIXELS = 16

_TILES = 4


@dataclass(frozen=True, kw_only=True)
class Degenerate:
    """One image that must not be scored."""

    index: int  # place in the suite
    reason: str


def find_degenerate(images: Sequence[Tensor]) -> list[Degenerate]:
    """The degenerate ones among `images`, in order.

    Args:
        images: [3, h, w] each, uint8 in 0..255 or floating point in 0..1; NaN and infinity are allowed and
        found.
    """
    reasons = ((index, degenerate_reason(image)) for index, image in enumerate(images))
    return [Degenerate(index=index, reason=reason) for index, reason in reasons if reason is not None]


def degenerate_reason(image: Tensor) -> str | None:
    """Why one image is degenerate, or None for a picture. See `find_degenerate`."""
    broken = 0 if image.dtype == torch.uint8 else int((~image.isfinite()).sum())
    if broken:
        return f"{broken} of {image.numel()} values are NaN or infinite"
    values = image.cpu().double() / 255 if image.dtype == torch.uint8 else image.cpu().double()
    if (peak := float(values.max())) <= BLACK_MAX:
        return f"black: the brightest value is {255 * peak:.1f} of 255"
    if (spread := float(values.flatten(1).std(dim=1, correction=0).max())) <= FLAT_STD:
        return f"flat: the standard deviation is {255 * spread:.1f} of 255"
    if is_noise(values):
        return "noise: neighbouring pixels are unrelated over the whole frame"
    return None


def is_noise(image: Tensor) -> bool:
    """Whether an image, floating point [3, h, w] in 0..1, is nothing but noise of single pixels.

    Noise that a VAE has smeared over blocks of eight pixels looks like a texture and is not found here.
    """
    if min(image.shape[-2:]) < NOISE_MIN_PIXELS:
        return False
    grey = luma(image)
    spread = float(grey.std(correction=0))
    if spread < NOISE_MIN_STD:
        return False
    if max(abs(value) for value in neighbour_correlations(grey)) > NOISE_MAX_CORRELATION:
        return False
    return calmest_tile(grey) >= NOISE_MIN_TILE_SHARE * spread


def neighbour_correlations(grey: Tensor) -> tuple[float, float, float, float]:
    """Pearson correlation of pixels [h, w] with their neighbours right, below, and on both diagonals."""
    pairs = (
        (grey[:, :-1], grey[:, 1:]),
        (grey[:-1], grey[1:]),
        (grey[:-1, :-1], grey[1:, 1:]),
        (grey[:-1, 1:], grey[1:, :-1]),
    )
    right, below, falling, rising = (_correlation(first, second) for first, second in pairs)
    return right, below, falling, rising


def calmest_tile(grey: Tensor) -> float:
    """Smallest standard deviation among the tiles of a 4 x 4 division of [h, w]."""
    tiles = (tile for row in grey.tensor_split(_TILES) for tile in row.tensor_split(_TILES, dim=1))
    return min(float(tile.std(correction=0)) for tile in tiles)


def _correlation(first: Tensor, second: Tensor) -> float:
    # Constant pixels are as predictable as can be: corrcoef gives NaN there, and 1 is what is meant.
    value = float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
    return 1.0 if math.isnan(value) else value
