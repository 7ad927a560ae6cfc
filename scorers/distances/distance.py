"""Distances between sets of feature vectors: the Fréchet distance, and kernel distances (MMD) with two kernels.

Notation: X [n, d] features of the images, Y [m, d] features of the references; n is small (8 to a few hundred), d about
2048. Everything is computed in float64, exactly, without random subsets. The references are prepared once; the rest is
cheap enough to be computed without each of the prompts in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1000.0


@dataclass(frozen=True, kw_only=True)
class FrechetReference:
    """The mean of the references, and their covariance as a factor: root.T @ root."""

    mean: Tensor  # [d]
    root: Tensor  # [min(m, d), d]
    spread: float  # trace of the covariance: the distance to a set of copies of the mean


@dataclass(frozen=True, kw_only=True)
class KernelReference:
    """The features of the references, and the part of the kernel distance that depends on them alone."""

    features: Tensor  # [m, d]
    self_similarity: float  # mean of k(y, y') over pairs of distinct references
    spread: float  # mean of k(y, y) minus self_similarity; for a linear k, the trace of the covariance


@dataclass(frozen=True, kw_only=True)
class GaussianReference:
    """The features of the references, and the part of CMMD that depends on them alone."""

    features: Tensor  # [m, d]
    self_similarity: float  # mean of k(y, y') over all pairs


def frechet_reference(features: Tensor) -> FrechetReference:
    """Prepare the references of `frechet_distance` from Y [m, d], m >= 2."""
    mean, root = _centre(features)
    if root.shape[0] > root.shape[1]:
        # More references than dimensions: R of Y = QR has the same R.T @ R and fewer rows.
        root = torch.linalg.qr(root, mode="r").R
    return FrechetReference(mean=mean, root=root, spread=float(root.square().sum()))


def frechet_distance(features: Tensor, reference: FrechetReference) -> float:
    """Compute the squared Fréchet distance between Gaussians fitted to both sets: >= 0, and 0 for equal moments.

        |mean_x - mean_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)

    With C_x = A.T A and C_y = B.T B (A, B: centred features divided by sqrt(n - 1)), the non-zero eigenvalues of C_x
    C_y are the squared singular values of A B.T, so the last trace is the sum of those singular values. This is an
    exact [n, m] problem. The usual square root of a [d, d] matrix of rank n is slow and needs regularisation.

    Heusel et al. 2017, https://arxiv.org/abs/1706.08500; covariances are divided by n - 1, as there.

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
    """Prepare the references of `kernel_distance` from Y [m, d], m >= 2."""
    features = features.double()
    gram = cubic_kernel(features, features)
    similarity = _mean_of_pairs(gram)
    return KernelReference(
        features=features, self_similarity=similarity, spread=float(gram.diagonal().mean()) - similarity
    )


def kernel_distance(features: Tensor, reference: KernelReference) -> float:
    """Compute the unbiased squared maximum mean discrepancy with the cubic kernel; it may be below 0.

    Binkowski et al. 2018, KID, https://arxiv.org/abs/1801.01401, but over all images at once instead of random subsets:
    the expectation is the same, the variance is lower, and there are no random numbers. Repeated rows
    count as pairs of equal images and increase the value.

    Args:
        features: X [n, d], n >= 2, any float dtype.
        reference: from `kernel_reference`.
    """
    features = features.double()
    own = _mean_of_pairs(cubic_kernel(features, features))
    cross = float(cubic_kernel(features, reference.features).mean())
    return own + reference.self_similarity - 2 * cross


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Compute (x . y / d + 1)^3 for all pairs of rows of x [n, d] and y [m, d]: [n, m]."""
    return (x @ y.T / x.shape[-1] + 1) ** 3


def gaussian_reference(features: Tensor) -> GaussianReference:
    """Prepare the references of `gaussian_distance` from Y [m, d]."""
    features = features.double()
    return GaussianReference(features=features, self_similarity=float(gaussian_kernel(features, features).mean()))


def gaussian_distance(features: Tensor, reference: GaussianReference) -> float:
    """Compute CMMD: 1000 x the biased squared maximum mean discrepancy with a Gaussian kernel of width 10; >= 0.

    Jayasumana et al. 2024, https://arxiv.org/abs/2401.09603, whose code takes the mean over all pairs, those of an
    image with itself included: https://github.com/google-research/google-research/tree/master/cmmd. For embeddings of
    length 1 the kernel is nearly linear, and the value about 10 x the squared distance of the mean embeddings.

    Args:
        features: X [n, d], any float dtype.
        reference: from `gaussian_reference`.
    """
    features = features.double()
    own = float(gaussian_kernel(features, features).mean())
    cross = float(gaussian_kernel(features, reference.features).mean())
    return max(_CMMD_SCALE * (own + reference.self_similarity - 2 * cross), 0.0)  # rounding leaves about -1e-13


def gaussian_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Compute exp(-|x - y|^2 / (2 sigma^2)) with sigma 10 for all pairs of rows of x [n, d] and y [m, d]: [n, m]."""
    squares = x.square().sum(dim=-1)[:, None] + y.square().sum(dim=-1) - 2 * (x @ y.T)
    return (-squares / (2 * _CMMD_SIGMA**2)).exp()


def _centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [d], and A [n, d] = (rows - mean) / sqrt(n - 1), so that A.T @ A is the covariance."""
    features = features.double()
    mean = features.mean(dim=0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def _mean_of_pairs(gram: Tensor) -> float:
    """Average the off-diagonal elements of a square matrix."""
    count = len(gram)
    return float((gram.sum() - gram.diagonal().sum()) / (count * (count - 1)))
