"""Methods that merge a part of each difference: TIES, DARE, DELLA, Model Breadcrumbs, SCE.

Notation: A = the first input and the base of the differences, d_i = the i-th further input minus A, n = elements of
the tensor, k = elements kept of a difference: density * n, rounded, at least 1 where density > 0. Elements of equal
magnitude rank by their position, the first one highest, so exactly k are kept. NaN ranks above all numbers.

The parts every method here is made of:
    trimming         keeps the k largest of |d|; Breadcrumbs leaves out the very largest first
    dropping         keeps element j with chance p_j and divides it by p_j, so its expectation is the whole d
    linear           A + sum_i r_i d_i, with any finite ratios r_i
    of one sign      s = sign(sum_i w_i d_i) is the elected sign of each element; the mean of the d_i that have it,
                     weighed by w_i >= 0, is added to A `strength` times. Where the d_i cancel out (s = 0), and where
                     all weights are 0, A stays. Only the proportions of the weights count. A NaN stays one.

Every function takes float32 tensors of one shape and the values of the method's slots, leaves its inputs alone and
returns float32 of that shape: A itself where all ratios are 0. Work space: 4 bytes for each element of each
difference, and some 20 bytes an element besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optimizer.merging.methods.selection import count_of, largest, ranks_in_rows

# Uniform float32 numbers are multiples of this, so a chance below it is met by a draw of 0 alone, this often.
_DRAW_STEP = 2.0**-24

_Thin = Callable[[Tensor, int], Tensor]  # a difference, to be overwritten, and its index -> what is kept of it


def ties(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + strength * (mean of one sign of the d_i, each trimmed to its k largest).

    Density 0 gives A; density 1 trims nothing. O(n). Source: Yadav et al. 2023, arXiv 2306.01708, with weights as
    in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1.
    """
    *weights, strength, density = values
    return _consensus(inputs, weights, strength, lambda d, _: _trim(d, density))


def dare_linear(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """A + sum_i r_i drop(d_i), every element kept with chance p = density and divided by p.

    Its expectation is task arithmetic, whatever the density; density 1 is task arithmetic, density 0 gives A. O(n).
    Source: Yu et al. 2023, arXiv 2311.03099 (there p is the chance to be dropped).

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the chance.
    """
    *ratios, density = values
    return _linear(inputs, ratios, lambda d, index: _drop(d, draws[index], density))


def dare_ties(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """A + strength * (mean of one sign of the d_i, dropped as in `dare_linear`).

    The mean is over what is left, so where only one of several survives it counts in full: unlike that of
    `dare_linear`, the expectation grows as the density falls. Density 0 gives A; density 1 is TIES of density 1.
    O(n). Source: Yu et al. 2023, arXiv 2311.03099; mergekit, with the mean of the TIES paper.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the chance.
    """
    *weights, strength, density = values
    return _consensus(inputs, weights, strength, lambda d, index: _drop(d, draws[index], density))


def della_linear(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """A + sum_i r_i drop(d_i), where larger elements of a row have a larger chance to be kept.

    p = density - epsilon + 2 epsilon rank, cut to 0..1; the rank of |d| within its row goes from 0 to 1 (see
    `ranks_in_rows`), so p is the density on average and epsilon 0 is `dare_linear`. Each element is divided by its own
    p: unless p is 0, the expectation is task arithmetic. O(n log n). Source: Deep et al. 2024, arXiv 2406.11617;
    epsilon is half the paper's, as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1; epsilon, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the chance.
    """
    *ratios, density, epsilon = values
    return _linear(inputs, ratios, lambda d, index: _drop(d, draws[index], _chances(d, density, epsilon)))


def della(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """A + strength * (mean of one sign of the d_i, dropped as in `della_linear`).

    Epsilon 0 is `dare_ties`. O(n log n). Source: Deep et al. 2024, arXiv 2406.11617; epsilon is half the paper's,
    as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1; epsilon, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the chance.
    """
    *weights, strength, density, epsilon = values
    return _consensus(inputs, weights, strength, lambda d, index: _drop(d, draws[index], _chances(d, density, epsilon)))


def breadcrumbs(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + sum_i r_i trim(d_i), where trimming drops the largest and the smallest and keeps k between.

    gamma * n of the largest are dropped, fewer where no k elements would be left; gamma 0 keeps the k largest.
    Density 1 is task arithmetic, density 0 gives A. Nothing is rescaled. O(n). Source: Davari and Belilovsky 2023,
    arXiv 2312.06795; density and gamma as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1; gamma, 0..1.
    """
    *ratios, density, gamma = values
    return _linear(inputs, ratios, lambda d, _: _trim(d, density, gamma))


def breadcrumbs_ties(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + strength * (mean of one sign of the d_i, trimmed as in `breadcrumbs`).

    Gamma 0 is TIES. O(n). Source: mergekit; arXiv 2312.06795 and arXiv 2306.01708.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1; gamma, 0..1.
    """
    *weights, strength, density, gamma = values
    return _consensus(inputs, weights, strength, lambda d, _: _trim(d, density, gamma))


def sce(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + strength * (mean of one sign of the d_i, each weighed by its energy): select, calculate, erase.

    Select: of the elements in which the d_i differ at all, the share `density` with the largest variance among the
    d_i is kept; density 1 keeps everything, density 0 gives A. Calculate: the weight of d_i is the sum of its squares
    over what is kept. Erase: the sign of the plain sum of the d_i is elected, and those of another sign are left out.
    Where all d_i are 0, or equal with a density below 1, A stays. O(n). Source: Wan et al. 2024, arXiv 2408.07990;
    the share is of the elements that differ, as in mergekit.

    Args:
        inputs: the base and two or more others.
        values: strength, any finite number; density, 0..1.
    """
    strength, density = values
    if strength == 0:
        return inputs[0]
    differences = [tensor - inputs[0] for tensor in inputs[1:]]
    if density < 1:
        variance = _variance(inputs[1:])
        dropped = ~largest(variance, count_of(density, int(variance.count_nonzero())))
        for difference in differences:
            difference.masked_fill_(dropped, 0)
    weights = _energies(differences)
    return _of_one_sign(inputs[0], differences, weights, strength, votes=[1.0] * len(weights))


def _trim(difference: Tensor, density: float, gamma: float = 0.0) -> Tensor:
    """Zero, in place, all but the k largest that come after the gamma * n largest."""
    total = difference.numel()
    kept = count_of(density, total)
    outliers = min(round(gamma * total), total - kept)
    sizes = difference.abs()
    chosen = largest(sizes, kept + outliers)
    if outliers:
        chosen &= ~largest(sizes, outliers)
    return difference.masked_fill_(chosen.logical_not_(), 0)


def _drop(difference: Tensor, draw: Tensor, chance: float | Tensor) -> Tensor:
    """Zero, in place, all elements whose draw is not below their chance, and divide the others by it."""
    divisor = max(chance, _DRAW_STEP) if isinstance(chance, float | int) else chance.clamp_min(_DRAW_STEP)
    return difference.div_(divisor).masked_fill_(draw >= chance, 0)


def _chances(difference: Tensor, density: float, epsilon: float) -> Tensor:
    """The chance of each element to be kept: density - epsilon for the least of a row, + epsilon for the largest."""
    ranks = ranks_in_rows(difference.abs())
    return ranks.mul_(2).sub_(1).mul_(epsilon).add_(density).clamp_(0, 1)


def _linear(inputs: Sequence[Tensor], ratios: Sequence[float], thin: _Thin) -> Tensor:
    """A + sum_i r_i thin(d_i); a ratio of 0 leaves an input out."""
    result = inputs[0]
    for index, (tensor, ratio) in enumerate(zip(inputs[1:], ratios, strict=True)):
        if ratio != 0:
            result = thin(tensor - inputs[0], index).mul_(ratio).add_(result)
    return result


def _consensus(inputs: Sequence[Tensor], weights: Sequence[float], strength: float, thin: _Thin) -> Tensor:
    """A + strength * (mean of one sign of thin(d_i)); a weight of 0 leaves an input out."""
    base = inputs[0]
    taken = [index for index, weight in enumerate(weights) if weight > 0]
    if strength == 0 or not taken:
        return base
    differences = [thin(inputs[index + 1] - base, index) for index in taken]
    return _of_one_sign(base, differences, [weights[index] for index in taken], strength)


def _of_one_sign(
    base: Tensor,
    differences: Sequence[Tensor],
    weights: Sequence[float],
    strength: float,
    votes: Sequence[float] = (),
) -> Tensor:
    """base + strength * (weighted mean of the differences that have the elected sign).

    Args:
        differences: may be overwritten.
        votes: the weights that elect the sign, where they are not `weights`.
    """
    weights = _relative(weights)
    elected = torch.zeros_like(base)
    for difference, vote in zip(differences, votes or weights, strict=True):
        elected.add_(difference, alpha=vote)
    elected.sign_()  # 0 where differences cancel out, and where one is NaN: then that one agrees and the mean is NaN
    total, share = torch.zeros_like(base), torch.zeros_like(base)
    for difference, weight in zip(differences, weights, strict=True):
        agreeing = difference.sign() == elected
        total.add_(difference.masked_fill_(~agreeing, 0), alpha=weight)
        share.add_(agreeing, alpha=weight)
    mean = total.div_(share.masked_fill_(share == 0, 1))
    return mean.mul_(strength).add_(base)


def _relative(weights: Sequence[float]) -> list[float]:
    """The same proportions, the largest being 1: tiny weights would vanish in float32. All 0 counts as all equal."""
    most = max(weights)
    return [weight / most for weight in weights] if most > 0 else [1.0] * len(weights)


def _variance(inputs: Sequence[Tensor]) -> Tensor:
    """n times the variance of each element among the inputs, in squares of the largest distance from the first input.

    Distances from the first input are used because they are exactly 0 where all are equal.
    """
    distances = [tensor - inputs[0] for tensor in inputs[1:]]
    scale = max(float(distance.abs().max()) for distance in distances) or 1.0
    mean = torch.zeros_like(inputs[0])
    for distance in distances:
        mean.add_(distance.div_(scale), alpha=1 / len(inputs))
    variance = mean.square()  # of the first input itself, whose distance is 0
    for distance in distances:
        variance.add_(distance.sub_(mean).square_())
    return variance


def _energies(differences: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each difference."""
    return [float(torch.linalg.vector_norm(d, dtype=torch.float64)) ** 2 for d in differences]
