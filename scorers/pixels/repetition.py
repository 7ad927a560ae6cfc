"""Repetition: whether an elongated image shows its subject twice, without a network.

Models that were trained on squares fill wide and tall images by drawing the subject again. Such an image resembles
itself when it is shifted along its longer side by the distance of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scorers.images import resize
from scorers.pixels import kinds

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.pixels.kinds import PixelSettings
    from scorers.protocol import BuildContext, SuiteImages

_SHORT_SIDE_PIXELS = 32  # fine detail differs between two subjects
_SHIFTS = (0.25, 0.7)  # shares of the longer side: at least so far apart, and at least 0.3 of the image overlaps


def repetition(image: Tensor) -> float:
    """Compute how much an image resembles itself, shifted along its longer side: -1..1, 1 for two equal halves.

    It is the largest correlation of the two overlapping parts over all shifts, at a size of 32 pixels. First, each row
    along the longer side loses its mean, in both parts and each channel: sky above ground resembles itself everywhere,
    and is no repetition. 0 for an image that does not change along its longer side.

    Args:
        image: uint8 [3, h, w]; a square is shifted along its width.
    """
    rows = _rows(image.cpu())
    length = rows.shape[-1]
    first, last = (int(share * length) for share in _SHIFTS)
    return max(_correlation(rows[..., shift:], rows[..., :-shift]) for shift in range(first, last))


def _rows(image: Tensor) -> Tensor:
    """Return an image, float64 [3, 32, l], whose longer side is the last."""
    if image.shape[-2] > image.shape[-1]:
        image = image.transpose(-2, -1)
    height, width = image.shape[-2:]
    size = (_SHORT_SIDE_PIXELS, round(width * _SHORT_SIDE_PIXELS / height))
    return resize(image[None].float(), size, "bilinear")[0].double()


def _correlation(one: Tensor, other: Tensor) -> float:
    """Return the correlation of the changes along the rows of two images [3, h, l]; 0 if one of them has none."""
    one, other = (part - part.mean(dim=-1, keepdim=True) for part in (one, other))
    norm = float(torch.linalg.vector_norm(one) * torch.linalg.vector_norm(other))
    return float((one * other).sum()) / norm if norm > 0 else 0.0


class DuplicateSubjectScorer:
    """A scorer of `repetition`."""

    info = kinds.DUPLICATE_SUBJECT

    def score(self, images: SuiteImages) -> Tensor:
        """Return the repetition of each image, float64 [n]."""
        return torch.tensor([repetition(image) for image in images.images], dtype=torch.float64)


def build(_settings: PixelSettings, _context: BuildContext) -> DuplicateSubjectScorer:
    """Build a scorer of `repetition`."""
    return DuplicateSubjectScorer()
