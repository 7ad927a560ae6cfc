"""Merge methods in which each element of the result depends only on the same element of the inputs.

Notation: A, B, C ... = the inputs in order; r, s, alpha, beta = `values`, one number for each slot that
studies/recipe/methods.py lists for the method; dB = B - A. |x| is the absolute value of an element.

Every function takes float32 tensors of one shape on one device, of any rank, and never changes them. It returns
float32 of that shape, which may be one of the inputs where nothing changes. The bits of an element do not depend
on how the tensors are split into chunks, so sums and products are separate calls: a fused multiply-add may round
differently in a vector's tail than in its body. Finite inputs give no NaN as long as their differences are finite, too.
A NaN or an infinity propagates where its input contributes to the result, which it does not at a ratio of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The smallest 1 - alpha beta, as in sd-meh: (A - alpha beta B) / (1 - alpha beta) is undefined where the product is 1.
LEAST_REMAINDER = 1e-10
# supermerger's factor for the trained difference, which compensates for the share that is left out.
TRAINING_GAIN = 1.8


def weighted_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return (1-r)A + rB; each further input is blended with the result so far, with a ratio of its own.

    A ratio of 1 gives that input itself, whatever precedes it. Elements that are equal in all inputs are unchanged.
    Source: A1111, supermerger.

    Args:
        inputs: two or more.
        values: one ratio for each input but the first; usually 0 to 1, others extrapolate.
    """
    result = inputs[0]
    for tensor, ratio in zip(inputs[1:], values, strict=True):
        result = _blend(result, tensor, ratio)
    return result


def sum_twice(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return (1-s)((1-r)A + rB) + sC: `weighted_sum` of three inputs, under supermerger's name.

    Source: supermerger ("Twice"), sd-meh.

    Args:
        inputs: A, B, C.
        values: r, s; usually 0 to 1. s = 1 gives C itself, r = 1 with s = 0 gives B itself.
    """
    return weighted_sum(inputs, values)


def n_average(inputs: Sequence[Tensor], _values: Sequence[float] = ()) -> Tensor:
    """Return (A + B + ...) / n.

    Source: sd-mecha.

    Args:
        inputs: two or more.
    """
    total = inputs[0].clone()
    for tensor in inputs[1:]:
        total.add_(tensor)
    return total.div_(len(inputs))


def task_arithmetic(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + r dB + s dC + ...; if all ratios are 0, A itself.

    Source: Ilharco et al. 2023, arXiv 2212.04089; mergekit.

    Args:
        inputs: the base A and one or more.
        values: one ratio for each input but the base; any numbers, negative ones remove a task.
    """
    base, *others = inputs
    total = base
    for tensor, ratio in zip(others, values, strict=True):
        if ratio != 0:
            total = (tensor - base).mul_(ratio).add_(total)
    return total


def triple_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return (1-r-s)A + rB + sC, which is A + r dB + s dC: task arithmetic with two tasks.

    Source: supermerger ("Triple"), sd-meh.

    Args:
        inputs: A, B, C.
        values: r, s; usually 0 to 1 with a sum of at most 1.
    """
    return task_arithmetic(inputs, values)


def add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + r(B - C): what B learned beyond its base C, added to A.

    Source: A1111.

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.
    """
    a, b, c = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    return (b - c).mul_(ratio).add_(a)


def train_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + 1.8 r (B-C) |B-A| / (|B-C| + |B-A|): less is added where A is already close to B.

    Where A = B = C the fraction is undefined, and nothing is added. Source: supermerger ("trainDifference").

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.
    """
    a, b, c = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    learned = b - c
    missing = (b - a).abs_()
    whole = learned.abs().add_(missing)
    share = missing.div_(whole).masked_fill_(whole == 0, 0.0)
    return learned.mul_(share).mul_(TRAINING_GAIN * ratio).add_(a)


def weighted_subtraction(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return (A - pB) / (1 - p), p = alpha beta: A with a share p of B removed.

    Computed as A + p/(1-p) (A - B), which leaves elements equal in A and B unchanged. Source: sd-meh.

    Args:
        inputs: A, B.
        values: alpha, beta; 0 to 1. p = 0 gives A itself; the result grows without bound as p approaches 1, and p = 1
            is computed with 1 - p = 1e-10.
    """
    a, b = inputs
    alpha, beta = values
    product = alpha * beta
    if product == 0:
        return a
    return (a - b).mul_(product / max(1 - product, LEAST_REMAINDER)).add_(a)


def multiply_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return C + sign(lerp(A, B, beta) - C) |A-C|^(1-alpha) |B-C|^alpha.

    Where a difference with a nonzero exponent is 0, so is the product; 0^0 is 1. Where the differences cancel in the
    lerp, the sign is +. Source: sd-meh.

    Args:
        inputs: A, B, C.
        values: alpha, the share of B in the magnitude of the difference; beta, its share in the sign; 0 to 1.
    """
    a, b, c = inputs
    alpha, beta = values
    difference_a, difference_b = a - c, b - c
    magnitude = _geometric_mean(difference_a, difference_b, alpha)
    return magnitude.copysign_(_blend(difference_a, difference_b, beta)).add_(c)


def similarity_add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return lerp(A + alpha(B-C), lerp(A, B, alpha/2), s), s = beta (AB/max(|A|,|B|)^2 + 1)/2.

    Where A and B are similar they are averaged, elsewhere the difference is added. Where A = B = 0 they count as equal:
    s = beta. Source: sd-meh.

    Args:
        inputs: A, B, C.
        values: alpha, any number, 0 gives A itself; beta, 0 to 1, 0 gives add_difference.
    """
    a, b, c = inputs
    alpha, beta = values
    if alpha == 0:
        return a
    # A is in both ends of the lerp, so the result is A + alpha (s (B-A)/2 + (1-s)(B-C)).
    share = _similarity(a, b).mul_(beta)
    averaged = (b - a).mul_(share).mul_(0.5)
    added = (b - c).mul_(1 - share)
    return averaged.add_(added).mul_(alpha).add_(a)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return (AB/max(|A|,|B|)^2 + 1)/2, between 0 (opposite) and 1 (equal, also where both are 0)."""
    largest = torch.maximum(a.abs(), b.abs())
    # Division comes before multiplication, because the square of a small weight would underflow.
    similarity = (a / largest).mul_(b / largest).add_(1).mul_(0.5)
    return similarity.masked_fill_(largest == 0, 1.0)


def geometric(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return the real part of A^(1-r) B^r, where negative numbers count as complex numbers of the angle pi.

    That is |A|^(1-r) |B|^r times the cosine of the angle: (1-r) pi where A is negative, plus r pi where B is. It is 0
    where A or B is 0 and 0 < r < 1. Source: sd-mecha (geometric_sum).

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives B itself.
    """
    a, b = inputs
    (ratio,) = values
    if ratio in (0, 1):
        return b if ratio else a
    cosine = math.cos(math.pi * ratio)
    # cos((1-r) pi) = -cos(r pi)
    sign_of_negative_a = torch.where(b < 0, -1.0, -cosine)
    sign_of_positive_a = torch.where(b < 0, cosine, 1.0)
    return _geometric_mean(a, b, ratio).mul_(torch.where(a < 0, sign_of_negative_a, sign_of_positive_a))


def weights_clip(result: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Clip a result to the range between A and B, element by element.

    NaN stays NaN, and an element whose A or B is NaN becomes NaN; -0 becomes 0. Source: sd-meh (weights clip).

    Args:
        result: float32, the result of a method with A, B and others as inputs.
        a: float32 of the same shape and device.
        b: the same.
    """
    clipped = torch.minimum(torch.maximum(result, torch.minimum(a, b)), torch.maximum(a, b))
    return clipped.add_(0.0)  # which of -0 and 0 is the smaller differs between a vector's body and its tail


def _blend(a: Tensor, b: Tensor, ratio: float) -> Tensor:
    """Return (1-r)A + rB, computed from the nearer end; a ratio of 0 or 1 gives A or B itself."""
    if ratio in (0, 1):
        return b if ratio else a
    if ratio < 0.5:
        return (b - a).mul_(ratio).add_(a)
    return (a - b).mul_(1 - ratio).add_(b)


def _geometric_mean(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """Return |x|^(1-r) |y|^r in float32, for r in 0..1.

    It is computed with float64 logarithms. torch's `pow` and `exp2` compute a vector's tail differently from its body,
    while `log` and `exp` do not; the extra digits compensate for the precision that exp loses.
    """
    if ratio in (0, 1):
        return (y if ratio else x).abs()
    total = x.double().abs_().log_().mul_(1 - ratio)
    return total.add_(y.double().abs_().log_().mul_(ratio)).exp_().float()
