"""Degenerate images: the black, flat or noisy output of a broken merge. A trial that renders one fails without a score.

Learned scorers may like them: classifiers have given noise .99. So they are detected before scoring, by tests that are
simple enough to be trusted and strict enough to spare pictures that are merely dark, plain, grainy or drawn with few
lines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from scorers.pixels.statistics import luma

if TYPE_CHECKING:
    from torch import Tensor

#: Largest value of a black image in 0..1: five grey levels, which nobody sees on a screen.
BLACK_MAX = 5 / 255
#: Largest standard deviation of any channel of a flat image in 0..1: two and a half grey levels.
FLAT_STD = 0.01
#: Smallest standard deviation of luma in noise; weaker noise may be grain on a plain picture.
NOISE_MIN_STD = 0.08
#: Largest correlation of neighbouring pixels in noise; in a picture they resemble each other.
NOISE_MAX_CORRELATION = 0.15
#: Noise fills the frame evenly: each of 4 x 4 tiles has at least this share of the overall standard deviation. Drawings
#: on paper and stars in the sky have empty tiles.
NOISE_MIN_TILE_SHARE = 0.6
#: Shortest side in pixels at which noise is looked for; smaller images have too few pixels to tell it from a picture.
NOISE_MIN_PIXELS = 16

_TILES = 4


class Measured(NamedTuple):
    """The measurements that tell a picture from a degenerate image; levels are in 0..1.

    The last three are 0 if the image is too small to tell noise from a picture.
    """

    values: float  # number of values
    broken: float  # number of NaN or infinite values; if there are any, the measurements below may be NaN
    peak: float  # largest value
    spread: float  # largest standard deviation of a channel
    grey_spread: float  # standard deviation of luma
    correlation: float  # largest magnitude of the correlation of luma between neighbouring pixels: 0..1, or NaN
    calmest_tile: float  # smallest standard deviation of luma among the tiles of a 4 x 4 division


def measure(images: Tensor) -> Tensor:
    """Measure images on their device; nothing is copied to the host, so a GPU can go on with the next images.

    Args:
        images: [n, 3, h, w], uint8 in 0..255 or floating point in 0..1; NaN and infinity are allowed.

    Returns:
        Float64 [n, 7], each row a `Measured`, for `faults`.
    """
    if images.device.type == "mps":  # which has no float64
        images = images.cpu()
    levels = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    finite = images.isfinite().flatten(1).sum(dim=1, dtype=torch.float64)
    values = torch.full_like(finite, images[0].numel())
    peak, spread = levels.amax(dim=(1, 2, 3)), _deviation(levels).amax(dim=1)
    return torch.stack([values, values - finite, peak, spread, *_noise_signs(luma(levels))], dim=1)


def faults(measured: Tensor) -> list[str | None]:
    """Return why each measured image is degenerate; None for a picture. All numbers are copied to the host at once.

    Args:
        measured: float64 [n, 7] from `measure`, or several of them concatenated.
    """
    return [_fault(Measured(*row)) for row in measured.tolist()]


def _fault(image: Measured) -> str | None:
    """Return why an image is degenerate; None for a picture."""
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
    """Return whether an image is nothing but noise of single pixels.

    Noise that a VAE has smeared over blocks of eight pixels looks like a texture and is not detected.
    """
    strong = image.grey_spread >= NOISE_MIN_STD
    uncorrelated = image.correlation <= NOISE_MAX_CORRELATION  # False for NaN, the correlation of constant pixels
    return strong and uncorrelated and image.calmest_tile >= NOISE_MIN_TILE_SHARE * image.grey_spread


def _noise_signs(grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measure `grey_spread`, `correlation` and `calmest_tile` of luma [n, h, w]: float64 [n] each."""
    if min(grey.shape[-2:]) < NOISE_MIN_PIXELS:
        zeros = grey.new_zeros(len(grey))
        return zeros, zeros, zeros
    return _deviation(grey), _neighbour_correlation(grey), _calmest_tile(grey)


def _neighbour_correlation(grey: Tensor) -> Tensor:
    """Return the largest |Pearson correlation| of luma with its neighbours right, below and on both diagonals: [n]."""
    pairs = (
        (grey[:, :, :-1], grey[:, :, 1:]),
        (grey[:, :-1], grey[:, 1:]),
        (grey[:, :-1, :-1], grey[:, 1:, 1:]),
        (grey[:, :-1, 1:], grey[:, 1:, :-1]),
    )
    return torch.stack([_correlation(first, second) for first, second in pairs]).abs().amax(dim=0)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of paired images [n, h, w]: float64 [n]; NaN if one of a pair is constant."""
    first, second = _centred(first), _centred(second)
    return (first * second).sum(dim=(-2, -1)) / (_norm(first) * _norm(second))


def _calmest_tile(grey: Tensor) -> Tensor:
    """Return the smallest standard deviation among the tiles of luma [n, h, w]: float64 [n]."""
    tiles = [tile for rows in grey.tensor_split(_TILES, dim=1) for tile in rows.tensor_split(_TILES, dim=2)]
    return torch.stack([_deviation(tile) for tile in tiles]).amin(dim=0)


def _deviation(values: Tensor) -> Tensor:
    """Return the standard deviation over [h, w]; on a CPU several times as fast as `Tensor.std`."""
    return _norm(_centred(values)) / math.sqrt(values.shape[-2:].numel())


def _norm(values: Tensor) -> Tensor:
    """Return the Euclidean norm over [h, w]."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=(-2, -1))
    return norm


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=(-2, -1), keepdim=True)
