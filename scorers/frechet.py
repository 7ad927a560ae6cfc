"""Two distances between sets of feature vectors, exact for small sets. Pure functions, float64.

Notation: X [n, d] the images' features, Y [m, d] the references', n small (8 to a few hundred), d about 2048.
The reference side is prepared once; what is left for each call is cheap enough for a bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FrechetReference:
    """Mean and covariance of the references, the covariance as a factor: root.T @ root."""

    mean: Tensor  # [d]
    root: Tensor  # [min(m, d), d]
    spread: float  # trace of the covariance: what the distance would be to copies of the mean


@dataclass(frozen=True, kw_only=True)
class KernelReference:
    """The references, with the part of the kernel distance that only depends on them."""

    features: Tensor  # [m, d]
    self_similarity: float  # mean of k(y, y') over pairs of different references
    spread: float  # mean of k(y, y) less self_similarity; the trace of the covariance if k were linear


def frechet_reference(features: Tensor) -> FrechetReference:
    """Prepare the reference side of `frechet_distance` from Y [m, d], m >= 2."""
    mean, root = _centre(features)
    if root.shape[0] > root.shape[1]:
        # More references than dimensions: R of Y = QR has the same R.T @ R and fewer rows.
        root = torch.linalg.qr(root, mode="r").R
    return FrechetReference(mean=mean, root=root, spread=float(root.square().sum()))


def frechet_distance(features: Tensor, reference: FrechetReference) -> float:
    """Squared Fréchet distance between Gaussians fitted to both sets; not negative, 0 for equal moments.

        |mean_x - mean_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)

    With C_x = A.T A and C_y = B.T B (A, B: centred features over sqrt(n - 1)), the non-zero eigenvalues of
    C_x C_y are the squared singular values of A B.T, so the last trace is their sum: an [n, m] problem and
    exact, where the usual square root of a [d, d] matrix of rank n is slow and needs a ridge.
    Heusel et al. 2017, https://arxiv.org/abs/1706.08500 (with covariances over n - 1, as there).

    Args:
        features: X [n, d], n >= 2, any float dtype.
        reference: from `frechet_reference`.
    """
    mean, root = _centre(features)
    shift = (mean - reference.mean).square().sum()
    overlap = torch.linalg.svdvals(root @ reference.root.T).sum()
    distance = float(shift + root.square().sum() + reference.spread - 2 * overlap)
    return max(distance, 0.0)  # rounding leaves about -1e-12 for equal sets


def kernel_reference(features: Tensor) -> KernelReference:
    """Prepare the reference side of `kernel_distance` from Y [m, d], m >= 2."""
    features = features.double()
    gram = cubic_kernel(features, features)
    similarity = _mean_of_pairs(gram)
    return KernelReference(
        features=features, self_similarity=similarity, spread=float(gram.diagonal().mean()) - similarity
    )


def kernel_distance(features: Tensor, reference: KernelReference) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel; around 0, or below, for equal sets.

    Binkowski et al. 2018, KID, https://arxiv.org/abs/1801.01401, but over all images at once in place of
    random subsets: the same expectation, less variance, no random numbers. Rows that repeat, as in a
    bootstrap, count as pairs of equal images and raise the value.

    Args:
        features: X [n, d], n >= 2, any float dtype.
        reference: from `kernel_reference`.
    """
    features = features.double()
    own = _mean_of_pairs(cubic_kernel(features, features))
    cross = float(cubic_kernel(features, reference.features).mean())
    return own + reference.self_similarity - 2 * cross


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / d + 1)^3 of all pairs of rows: [n, d], [m, d] -> [n, m]."""
    return (x @ y.T / x.shape[-1] + 1) ** 3


def _centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d], and rows less the mean over sqrt(n - 1), whose Gram matrix is the covariance."""
    features = features.double()
    mean = features.mean(dim=0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def _mean_of_pairs(gram: Tensor) -> float:
    """Mean of a square matrix without its diagonal."""
    count = len(gram)
    return float((gram.sum() - gram.diagonal().sum()) / (count * (count - 1)))
