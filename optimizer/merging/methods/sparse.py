"""Merge methods that sparsify the differences before adding them: TIES, DARE, DELLA, Model Breadcrumbs, SCE.

Notation: A = the first input and the base of the differences, d_i = the i-th further input minus A, n = number of
elements of the tensor, k = number of elements kept of a difference: density * n, rounded, at least 1 where density > 0.
Elements of equal magnitude rank by their position, the first one highest, so exactly k are kept. NaN ranks above all
numbers.

The methods combine these operations:
    trim             keeps the k largest of |d|; Breadcrumbs drops the very largest as well
    drop             keeps element j with probability p_j and divides it by p_j, so its expectation is d
    linear           A + sum_i r_i d_i, with any finite ratios r_i
    disjoint mean    s = sign(sum_i w_i d_i) is the elected sign of each element, with w_i >= 0. The mean, weighted by
                     w_i, of those d_i that have this sign is added to A `strength` times. A is unchanged where the
                     d_i cancel out (s = 0), and where all weights are 0. Only the proportions of the weights matter.
                     NaN stays NaN.

Every function takes float32 tensors of one shape and the values of the method's slots, does not change its inputs, and
returns float32 of that shape: A itself where all ratios are 0. Temporary memory: 4 bytes for each element of each
difference, and about 20 bytes an element besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optimizer.merging.methods.selection import count_of, largest, ranks_in_rows

# Uniform float32 numbers are multiples of this step, so only a draw of 0 is below a probability that is smaller than
# the step: elements are then kept with the probability of one step, and divided by it.
_DRAW_STEP = 2.0**-24

_Sparsify = Callable[[Tensor, int], Tensor]  # (a difference, which may be overwritten, its index) -> the sparse one


def ties(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + strength * (disjoint mean of the d_i, each trimmed to its k largest).

    Density 0 gives A; density 1 trims nothing. O(n). Source: Yadav et al. 2023, arXiv 2306.01708, with weights as
    in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1.
    """
    *weights, strength, density = values
    return _disjoint_merge(inputs, weights, strength, lambda d, _: _trim(d, density))


def dare_linear(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """Return A + sum_i r_i drop(d_i), every element kept with probability p = density and divided by p.

    Its expectation is task arithmetic at any density above 0; density 1 is task arithmetic, density 0 gives A. O(n).
    Source: Yu et al. 2023, arXiv 2311.03099 (there p is the probability of dropping).

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the probability.
    """
    *ratios, density = values
    return _linear(inputs, ratios, lambda d, index: _drop(d, draws[index], density))


def dare_ties(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """Return A + strength * (disjoint mean of the d_i, dropped as in `dare_linear`).

    The mean is over the elements that are kept, so the only one of several counts in full. Unlike that of
    `dare_linear`, the expectation therefore grows as the density falls. Density 0 gives A; density 1 is TIES of
    density 1. O(n). Source: Yu et al. 2023, arXiv 2311.03099; mergekit, with the mean of the TIES paper.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the probability.
    """
    *weights, strength, density = values
    return _disjoint_merge(inputs, weights, strength, lambda d, index: _drop(d, draws[index], density))


def della_linear(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """Return A + sum_i r_i drop(d_i), where larger elements of a row are kept with higher probability.

    p = density - epsilon + 2 epsilon rank, clipped to 0..1; the rank of |d| within its row goes from 0 to 1 (see
    `ranks_in_rows`), so p is the density on average, and epsilon 0 is `dare_linear`. Each element is divided by its own
    p: unless p is 0, the expectation is task arithmetic. O(n log n). Source: Deep et al. 2024, arXiv 2406.11617;
    epsilon is half the paper's, as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1; epsilon, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the probability.
    """
    *ratios, density, epsilon = values
    return _linear(inputs, ratios, lambda d, index: _drop(d, draws[index], _probabilities(d, density, epsilon)))


def della(inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
    """Return A + strength * (disjoint mean of the d_i, dropped as in `della_linear`).

    Epsilon 0 is `dare_ties`. O(n log n). Source: Deep et al. 2024, arXiv 2406.11617; epsilon is half the paper's,
    as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1; epsilon, 0..1.
        draws: float32, uniform in [0, 1), one per input but the first: kept where the draw is below the probability.
    """
    *weights, strength, density, epsilon = values
    return _disjoint_merge(
        inputs, weights, strength, lambda d, index: _drop(d, draws[index], _probabilities(d, density, epsilon))
    )


def breadcrumbs(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + sum_i r_i trim(d_i), where trimming drops the largest and the smallest elements, and keeps k.

    gamma * n of the largest are dropped, or fewer so that k elements are left; gamma 0 keeps the k largest. Density 1
    is task arithmetic, density 0 gives A. Nothing is rescaled. O(n). Source: Davari and Belilovsky 2023,
    arXiv 2312.06795; density and gamma as in mergekit.

    Args:
        inputs: the base and one or more others.
        values: a ratio, any finite number, per input but the first; density, 0..1; gamma, 0..1.
    """
    *ratios, density, gamma = values
    return _linear(inputs, ratios, lambda d, _: _trim(d, density, gamma))


def breadcrumbs_ties(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + strength * (disjoint mean of the d_i, trimmed as in `breadcrumbs`).

    Gamma 0 is TIES. O(n). Source: mergekit; arXiv 2312.06795 and arXiv 2306.01708.

    Args:
        inputs: the base and one or more others.
        values: a weight (>= 0) per input but the first; strength, any finite number; density, 0..1; gamma, 0..1.
    """
    *weights, strength, density, gamma = values
    return _disjoint_merge(inputs, weights, strength, lambda d, _: _trim(d, density, gamma))


def sce(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + strength * (disjoint mean of the d_i, each weighted by its energy): select, calculate, erase.

    Select: of the elements in which the d_i differ at all, the share `density` with the largest variance among the
    d_i is kept; density 1 keeps everything, density 0 gives A. Calculate: the weight of d_i is the sum of its squares
    over the elements kept. Erase: the sign of the unweighted sum of the d_i is elected, and those of another sign are
    left out. The result is A where all d_i are 0, or equal with a density below 1. O(n). Source: Wan et al. 2024,
    arXiv 2408.07990; the share is of the elements that differ, as in mergekit.

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
    return _add_disjoint_mean(inputs[0], differences, weights, strength, votes=[1.0] * len(weights))


def _trim(difference: Tensor, density: float, gamma: float = 0.0) -> Tensor:
    """Zero, in place, all but the k largest elements that follow the gamma * n largest."""
    total = difference.numel()
    kept = count_of(density, total)
    outliers = min(round(gamma * total), total - kept)
    magnitudes = difference.abs()
    selected = largest(magnitudes, kept + outliers)
    if outliers:
        selected &= ~largest(magnitudes, outliers)
    return difference.masked_fill_(selected.logical_not_(), 0)


def _drop(difference: Tensor, draw: Tensor, p: float | Tensor) -> Tensor:
    """Zero, in place, all elements whose draw is not below their probability p, and divide the others by p."""
    divisor = max(p, _DRAW_STEP) if isinstance(p, float | int) else p.clamp_min(_DRAW_STEP)
    return difference.div_(divisor).masked_fill_(draw >= p, 0)


def _probabilities(difference: Tensor, density: float, epsilon: float) -> Tensor:
    """Return each element's probability of being kept: density - epsilon (least of a row) to density + epsilon."""
    ranks = ranks_in_rows(difference.abs())
    return ranks.mul_(2).sub_(1).mul_(epsilon).add_(density).clamp_(0, 1)


def _linear(inputs: Sequence[Tensor], ratios: Sequence[float], sparsify: _Sparsify) -> Tensor:
    """Return A + sum_i r_i sparsify(d_i); a ratio of 0 leaves an input out."""
    result = inputs[0]
    for index, (tensor, ratio) in enumerate(zip(inputs[1:], ratios, strict=True)):
        if ratio != 0:
            result = sparsify(tensor - inputs[0], index).mul_(ratio).add_(result)
    return result


def _disjoint_merge(inputs: Sequence[Tensor], weights: Sequence[float], strength: float, sparsify: _Sparsify) -> Tensor:
    """Return A + strength * (disjoint mean of sparsify(d_i)); a weight of 0 leaves an input out."""
    base = inputs[0]
    active = [index for index, weight in enumerate(weights) if weight > 0]
    if strength == 0 or not active:
        return base
    differences = [sparsify(inputs[index + 1] - base, index) for index in active]
    return _add_disjoint_mean(base, differences, [weights[index] for index in active], strength)


def _add_disjoint_mean(
    base: Tensor,
    differences: Sequence[Tensor],
    weights: Sequence[float],
    strength: float,
    votes: Sequence[float] = (),
) -> Tensor:
    """Return base + strength * (weighted mean of the differences that have the elected sign).

    Args:
        differences: may be overwritten.
        votes: the weights that elect the sign, if they are not `weights`.
    """
    weights = _scaled_to_1(weights)
    elected = torch.zeros_like(base)
    for difference, vote in zip(differences, votes or weights, strict=True):
        elected.add_(difference, alpha=vote)
    elected.sign_()  # 0 where differences cancel out or one is NaN; a NaN has that sign, too, so the mean is NaN
    total, share = torch.zeros_like(base), torch.zeros_like(base)
    for difference, weight in zip(differences, weights, strict=True):
        agreeing = difference.sign() == elected
        total.add_(difference.masked_fill_(~agreeing, 0), alpha=weight)
        share.add_(agreeing, alpha=weight)
    mean = total.div_(share.masked_fill_(share == 0, 1))
    return mean.mul_(strength).add_(base)


def _scaled_to_1(weights: Sequence[float]) -> list[float]:
    """Scale weights so that the largest is 1: tiny ones would underflow in float32. If all are 0, all become 1."""
    largest_weight = max(weights)
    return [weight / largest_weight for weight in weights] if largest_weight > 0 else [1.0] * len(weights)


def _variance(inputs: Sequence[Tensor]) -> Tensor:
    """Compute n times the variance of each element among n inputs, in units of the largest squared distance.

    Distances are those from the first input, because they are exactly 0 where all inputs are equal.
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
    """Compute the sum of squares of each difference."""
    return [float(torch.linalg.vector_norm(d, dtype=torch.float64)) ** 2 for d in differences]
