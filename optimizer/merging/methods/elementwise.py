"""Merge methods in which an element of the result depends on the same element of the inputs alone.

Notation: A, B, C ... = the inputs in order; r, s, alpha, beta = `values`, one number for each slot that
studies/recipe/methods.py names for the method; dB = B - A. |x| is the absolute value of an element.

Every function takes float32 tensors of one shape on one device, of any rank, and never changes them. It gives
float32 of that shape, which may be one of the inputs where nothing changes. The bits of an element do not depend
on how the tensors are cut into pieces, so sums and products are separate calls: a fused multiply-add may round
otherwise in a vector's tail than in its body. Finite inputs give no NaN as long as their differences are finite as
well; a NaN or an infinity passes through where its input has a share, which it has not at a ratio of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# sd-meh takes this off a product of 1, where (A - alpha beta B) / (1 - alpha beta) has no value.
LEAST_REMAINDER = 1e-10
# What supermerger multiplies a trained-in difference with, to make up for the share that is left out.
TRAINING_GAIN = 1.8


def weighted_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """(1-r)A + rB; each further input is folded into the result so far with a ratio of its own.

    Args:
        inputs: two or more.
        values: one ratio for each input but the first; usually 0 to 1, others extrapolate.

    A ratio of 1 gives that input itself, whatever came before it; elements equal in all inputs stay as they are.
    Source: A1111, supermerger.
    """
    result = inputs[0]
    for tensor, ratio in zip(inputs[1:], values, strict=True):
        result = _blend(result, tensor, ratio)
    return result


def sum_twice(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """(1-s)((1-r)A + rB) + sC: the weighted sum of three inputs, under the name it has for them.

    Args:
        inputs: A, B, C.
        values: r, s; usually 0 to 1. s = 1 gives C itself, r = 1 with s = 0 gives B itself.

    Source: supermerger ("Twice"), sd-meh.
    """
    return weighted_sum(inputs, values)


def n_average(inputs: Sequence[Tensor], _values: Sequence[float] = ()) -> Tensor:
    """(A + B + ...) / n.

    Args:
        inputs: two or more.

    Source: sd-mecha.
    """
    total = inputs[0].clone()
    for tensor in inputs[1:]:
        total.add_(tensor)
    return total.div_(len(inputs))


def task_arithmetic(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + r dB + s dC + ...

    Args:
        inputs: the base A and one or more.
        values: one ratio for each input but the base; any numbers, negative ones take a task away.

    All ratios 0 gives A itself. Source: Ilharco et al. 2023, arXiv 2212.04089; mergekit.
    """
    base, *others = inputs
    total = base
    for tensor, ratio in zip(others, values, strict=True):
        if ratio != 0:
            total = (tensor - base).mul_(ratio).add_(total)
    return total


def triple_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """(1-r-s)A + rB + sC, which is A + r dB + s dC: task arithmetic with two tasks.

    Args:
        inputs: A, B, C.
        values: r, s; usually 0 to 1 with a sum of at most 1.

    Source: supermerger ("Triple"), sd-meh.
    """
    return task_arithmetic(inputs, values)


def add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + r(B - C): what B learned over its base C, added to A.

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.

    Source: A1111.
    """
    a, b, c = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    return (b - c).mul_(ratio).add_(a)


def train_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + 1.8 r (B-C) |B-A| / (|B-C| + |B-A|): less is added where A already is what B became.

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.

    Where A = B = C the fraction has no value, and nothing is added. Source: supermerger ("trainDifference").
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
    """(A - pB) / (1 - p), p = alpha beta: what A would be had a share p of B been taken out.

    Computed as A + p/(1-p) (A - B), which keeps elements equal in A and B as they are.

    Args:
        inputs: A, B.
        values: alpha, beta; 0 to 1. p = 0 gives A itself; as p nears 1 the result leaves every bound, and at p = 1
            it is that of 1 - p = 1e-10.

    Source: sd-meh.
    """
    a, b = inputs
    alpha, beta = values
    product = alpha * beta
    if product == 0:
        return a
    return (a - b).mul_(product / max(1 - product, LEAST_REMAINDER)).add_(a)


def multiply_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """C + sign(lerp(A, B, beta) - C) |A-C|^(1-alpha) |B-C|^alpha.

    Args:
        inputs: A, B, C.
        values: alpha, the share of B in the size of the difference; beta, its share in the sign; 0 to 1.

    Where one of the differences is 0 and has a share, so is their product; 0^0 is 1. Where the differences cancel
    in the lerp the sign is +. Source: sd-meh.
    """
    a, b, c = inputs
    alpha, beta = values
    of_a, of_b = a - c, b - c
    size = _geometric_mean(of_a, of_b, alpha)
    return size.copysign_(_blend(of_a, of_b, beta)).add_(c)


def similarity_add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """lerp(A + alpha(B-C), lerp(A, B, alpha/2), s), s = beta (AB/max(|A|,|B|)^2 + 1)/2.

    Where A and B are alike they are averaged, elsewhere the difference is added.

    Args:
        inputs: A, B, C.
        values: alpha, any number, 0 gives A itself; beta, 0 to 1, 0 gives add_difference.

    Where A = B = 0 they are alike: s = beta. Source: sd-meh.
    """
    a, b, c = inputs
    alpha, beta = values
    if alpha == 0:
        return a
    # A multiple of A is in both sides of the lerp: what is left is A + alpha (s (B-A)/2 + (1-s)(B-C)).
    similar = _similarity(a, b).mul_(beta)
    averaged = (b - a).mul_(similar).mul_(0.5)
    added = (b - c).mul_(1 - similar)
    return averaged.add_(added).mul_(alpha).add_(a)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """(AB/max(|A|,|B|)^2 + 1)/2, between 0 (opposite) and 1 (equal, also where both are 0)."""
    largest = torch.maximum(a.abs(), b.abs())
    # Each is divided before they are multiplied: the square of a small weight would be lost.
    alike = (a / largest).mul_(b / largest).add_(1).mul_(0.5)
    return alike.masked_fill_(largest == 0, 1.0)


def geometric(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """The real part of A^(1-r) B^r, with negative numbers as complex ones of the angle pi.

    That is |A|^(1-r) |B|^r times the cosine of the angle: (1-r) pi where A is negative, plus r pi where B is.

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives B itself.

    0 where A or B is 0 and 0 < r < 1. Source: sd-mecha (geometric_sum).
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
    """The result held between A and B, element by element.

    Args:
        result: float32, what a method made of A, B and others.
        a: float32 of the same shape and device.
        b: the same.

    NaN stays NaN, and an element whose A or B is NaN becomes NaN; -0 becomes 0. Source: sd-meh (weights clip).
    """
    held = torch.minimum(torch.maximum(result, torch.minimum(a, b)), torch.maximum(a, b))
    return held.add_(0.0)  # which of -0 and 0 is the smaller depends on whether a vector's body or tail computes it


def _blend(a: Tensor, b: Tensor, ratio: float) -> Tensor:
    """(1-r)A + rB, counted from the nearer end, so that both ends are exact: they are A and B themselves."""
    if ratio in (0, 1):
        return b if ratio else a
    if ratio < 0.5:
        return (b - a).mul_(ratio).add_(a)
    return (a - b).mul_(1 - ratio).add_(b)


def _geometric_mean(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """|x|^(1-r) |y|^r, r in 0..1, in float32.

    By way of float64 logarithms: torch's `pow` and `exp2` compute a vector's tail otherwise than its body, `log`
    and `exp` do not, and the extra digits make up for what exp loses.
    """
    if ratio in (0, 1):
        return (y if ratio else x).abs()
    total = x.double().abs_().log_().mul_(1 - ratio)
    return total.add_(y.double().abs_().log_().mul_(ratio)).exp_().float()
