"""Images that are no images: what a broken merge renders. A trial with one of them fails, it gets no score.

Learned scorers like some of these: noise has been given .99 by classifiers. So they are looked for before
scoring, with tests that are simple enough to be trusted and strict enough never to hit a picture that is
merely dark, plain, grainy or drawn with few lines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from scorers.pixels import luma

if TYPE_CHECKING:
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


class Measured(NamedTuple):
    """What tells a picture from what is none; levels are in 0..1.

    The last three are 0 where an image is too small to tell noise from a picture.
    """

    values: float  # how many there are
    broken: float  # how many of them are NaN or infinite; if any, all that follows may be NaN
    peak: float  # the largest
    spread: float  # largest standard deviation of a channel
    grey_spread: float  # standard deviation of luma
    correlation: float  # of luma with its neighbours, in the direction where its magnitude is largest: 0..1, or NaN
    calmest_tile: float  # smallest standard deviation of luma among the tiles of a 4 x 4 division


def measure(images: Tensor) -> Tensor:
    """Measure images where they are; nothing is read back, so that a GPU may go on with the next ones.

    Args:
        images: [n, 3, h, w], uint8 in 0..255 or floating point in 0..1; NaN and infinity are allowed.

    Returns:
        Float64 [n, 7], each row a `Measured`, for `faults`.
    """
    if images.device.type == "mps":  # which knows no float64
        images = images.cpu()
    levels = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    finite = images.isfinite().flatten(1).sum(dim=1, dtype=torch.float64)
    values = torch.full_like(finite, images[0].numel())
    peak, spread = levels.amax(dim=(1, 2, 3)), _deviation(levels).amax(dim=1)
    return torch.stack([values, values - finite, peak, spread, *_noise_signs(luma(levels))], dim=1)


def faults(measured: Tensor) -> list[str | None]:
    """Why each image that was measured is degenerate, or None for a picture; reads the numbers back at once.

    Args:
        measured: [n, 7] of `measure`, or several of them concatenated.
    """
    return [_fault(Measured(*row)) for row in measured.tolist()]


def _fault(image: Measured) -> str | None:
    if image.broken:
        return f"{image.broken:.0f} of {image.values:.0f} values are NaN or infinite"
    if image.peak <= BLACK_MAX:
        return f"black: the brightest value is {255 * image.peak:.1f} of 255"
    if image.spread <= FLAT_STD:
        return f"flat: the standard deviation is {255 * image.spread:.1f} of 255"
    if _is_noise(image):
        return "noise: neighbouring pixels are unrelated over the whole frame"
    return None


def _is_noise(image: Measured) -> bool:
    """Whether an image is nothing but noise of single pixels.

    Noise that a VAE has smeared over blocks of eight pixels looks like a texture and is not found here.
    """
    strong = image.grey_spread >= NOISE_MIN_STD
    unrelated = image.correlation <= NOISE_MAX_CORRELATION  # NaN is not: constant pixels are as related as can be
    return strong and unrelated and image.calmest_tile >= NOISE_MIN_TILE_SHARE * image.grey_spread


def _noise_signs(grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`grey_spread`, `correlation` and `calmest_tile` of luma [n, h, w]: float64 [n] each."""
    if min(grey.shape[-2:]) < NOISE_MIN_PIXELS:
        nothing = grey.new_zeros(len(grey))
        return nothing, nothing, nothing
    return _deviation(grey), _neighbour_correlation(grey), _calmest_tile(grey)


def _neighbour_correlation(grey: Tensor) -> Tensor:
    """Largest magnitude of Pearson's correlation of luma with its neighbours right, below, and on both diagonals."""
    pairs = (
        (grey[:, :, :-1], grey[:, :, 1:]),
        (grey[:, :-1], grey[:, 1:]),
        (grey[:, :-1, :-1], grey[:, 1:, 1:]),
        (grey[:, :-1, 1:], grey[:, 1:, :-1]),
    )
    return torch.stack([_correlation(first, second) for first, second in pairs]).abs().amax(dim=0)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's, of each [h, w] of the first [n, h, w] with that of the second: float64 [n]; NaN if one is constant."""
    first, second = _centred(first), _centred(second)
    return (first * second).sum(dim=(-2, -1)) / (_norm(first) * _norm(second))


def _calmest_tile(grey: Tensor) -> Tensor:
    """Smallest standard deviation among the tiles of luma [n, h, w]: float64 [n]."""
    tiles = [tile for rows in grey.tensor_split(_TILES, dim=1) for tile in rows.tensor_split(_TILES, dim=2)]
    return torch.stack([_deviation(tile) for tile in tiles]).amin(dim=0)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation over [h, w]; on a CPU several times as fast as `Tensor.std` over part of the dimensions."""
    return _norm(_centred(values)) / math.sqrt(values.shape[-2:].numel())


def _norm(values: Tensor) -> Tensor:
    """Root of the sum of squares over [h, w]."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=(-2, -1))
    return norm


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=(-2, -1), keepdim=True)
