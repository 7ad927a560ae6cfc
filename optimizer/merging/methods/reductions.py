"""Merge methods that need norms, dot products or distances of whole tensors.

Notation: A, B, C ... = the inputs in order; r, alpha = `values`, one number for each slot that
studies/recipe/methods.py names for the method; <x, y> = sum of x y over all elements, |x| = sqrt(<x, x>),
cos(x, y) = <x, y> / (|x| |y|); lerp(x, y, r) = (1-r)x + ry. "The whole tensor" is that of the file: a linear layer's
matrix, a convolution's kernels, a bias.

Every function takes float32 tensors of one shape (rank 0 to 4, also of one element) on one device and never changes
them. It gives float32 of that shape, which may be one of the inputs where nothing changes. Sums run in float64, so
neither their order nor the size of the tensor shows in the result; what is done to elements is float32. Finite
inputs give no NaN as long as their differences are finite as well; a NaN or an infinity spreads over the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from optimizer.merging.methods.elementwise import n_average, task_arithmetic

# Elements summed at a time, so that float64 copies stay small beside the tensors.
PIECE = 1 << 22
# Lengths that differ by more than this have no meaning together: their quotient would leave float32.
LEAST_LENGTH_RATIO = 1e-30
# Radians between directions: below the first the great circle is a straight line in float32; that close to opposite,
# float32 no longer tells which of all great circles it is.
NEARLY_PARALLEL = 1e-7
NEARLY_OPPOSITE = 1e-3
# Weiszfeld's iteration ends where no weight moves further than this, or after this many rounds.
MEDIAN_TOLERANCE = 1e-10
MEDIAN_ROUNDS = 1000
# Distance, as a share of the largest one, at which a point counts as an input: float64 resolves no less, since the
# distances come from squares.
COINCIDENCE = 1e-7


def slerp(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """From A's direction to B's along the great circle, with the length lerp(|A|, |B|, r).

    (sin((1-r) w) A/|A| + sin(r w) B/|B|) / sin(w) * lerp(|A|, |B|, r), w = the angle between A and B.

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives B itself.

    lerp(A, B, r) where the circle is not determined: A and B (nearly) parallel or opposite, which tensors of one
    element always are, one of them 0 or out of all proportion to the other. Source: sd-mecha.
    """
    a, b = inputs
    (ratio,) = values
    if ratio in (0, 1):
        return b if ratio else a
    of_a, of_b = _slerp_weights(_norm(a), _norm(b), _dot(a, b), ratio)
    return (a * of_a).add_(b * of_b)


def _slerp_weights(norm_a: Tensor, norm_b: Tensor, dot: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """What A and B are multiplied with in a slerp, float32 scalars."""
    angle = torch.acos(_quotient(dot, norm_a * norm_b).clamp(-1, 1))
    shorter, longer = torch.minimum(norm_a, norm_b), torch.maximum(norm_a, norm_b)
    straight = (angle < NEARLY_PARALLEL) | (angle > math.pi - NEARLY_OPPOSITE)
    straight |= shorter <= longer * LEAST_LENGTH_RATIO
    length = _quotient(norm_a * (1 - ratio) + norm_b * ratio, torch.sin(angle))
    of_a = _quotient(torch.sin(angle * (1 - ratio)) * length, norm_a)
    of_b = _quotient(torch.sin(angle * ratio) * length, norm_b)
    return torch.where(straight, 1 - ratio, of_a).float(), torch.where(straight, ratio, of_b).float()


def cosine_a(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """lerp(A, B, clip(similarity - (1-r), 0, 1)): B where it is like A, ever more of it with r.

    The similarity of an element is the cosine between the columns of A and B it is in (all elements with its
    indices but the first: what one input feature does to all outputs).

    Args:
        inputs: A, B.
        values: r; 0 gives A itself, 1 gives lerp(A, B, similarity), not B; 0 to 1.

    The similarity of a column that is 0 in A or in B is 0. sd-mecha's add_cosine_a counts the other way round, from
    lerp(B, A, similarity) to all B: what is made there of B, A and alpha is made here of A, B and r = 1 - alpha.
    Source: sd-mecha (add_cosine_a), after supermerger (cosineA), which stretches the similarities of the whole
    model to 0..1 first.
    """
    a, b = inputs
    (ratio,) = values
    return a if ratio == 0 else _blend_similar(a, b, _column_cosines(a, b), ratio)


def cosine_b(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """As cosine_a, with the mean of the columns' cosine and that of the whole tensors as similarity.

    Args:
        inputs: A, B.
        values: r; 0 gives A itself, 1 gives lerp(A, B, similarity), not B; 0 to 1.

    The cosine with a tensor or column that is 0 is 0. Source: sd-mecha (add_cosine_b), after supermerger (cosineB).
    """
    a, b = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    of_all = _cosine(a, b).float()
    return _blend_similar(a, b, _column_cosines(a, b).add_(of_all).mul_(0.5), ratio)


def _column_cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between the columns of A and B, float32, of their shape without the first dimension."""
    rows_a, rows_b = (tensor.reshape(1) if tensor.dim() == 0 else tensor for tensor in (a, b))
    dot, square_a, square_b = (torch.zeros(rows_a.shape[1:], dtype=torch.float64, device=a.device) for _ in range(3))
    step = max(1, PIECE // max(1, dot.numel()))
    for part_a, part_b in zip(torch.split(rows_a, step), torch.split(rows_b, step), strict=True):
        dot += _products(part_a, part_b).sum(0)
        square_a += _products(part_a, part_a).sum(0)
        square_b += _products(part_b, part_b).sum(0)
    return _quotient(dot, square_a.sqrt_() * square_b.sqrt_()).float()


def _blend_similar(a: Tensor, b: Tensor, similarity: Tensor, ratio: float) -> Tensor:
    share = (similarity - (1 - ratio)).clamp_(0, 1)
    return (b - a).mul_(share).add_(a)


def perpendicular(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A + r (dB - dA <dA, dB> / |dA|^2), dA = A-C, dB = B-C: what B learned over C and A did not.

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.

    Where A is C, or dB out of all proportion to dA, there is nothing to be perpendicular to: all of r (B-C) is added
    (sd-mecha adds nothing where A is C).
    Source: sd-mecha (add_perpendicular).
    """
    a, b, c = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    of_a, of_b = a - c, b - c
    in_common = _quotient(_dot(of_a, of_b), _dot(of_a, of_a)).float()
    return of_b.sub_(of_a.mul_(in_common)).mul_(ratio).add_(a)


def euclidean_add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """C + D/|D| |S|, S = lerp(A, B, alpha) - C, D = sign(S) sqrt((1-alpha) (dA/|dA|)^2 + alpha (dB/|dB|)^2).

    dA = A-C, dB = B-C; signs, squares and roots are taken element by element.

    Args:
        inputs: A, B, C.
        values: alpha, 0 to 1; 0 gives A and 1 gives B, both to within rounding.

    The direction of a difference that is 0 is 0. C where S is 0; the sign of an element of S that is 0 is +.
    Source: sd-meh.
    """
    a, b, c = inputs
    (alpha,) = values
    of_a, of_b = a - c, b - c
    norm_a, norm_b = _norm(of_a), _norm(of_b)
    blend = of_a.lerp(of_b, alpha)
    # Directions times the longer length, which cancels in D/|D|: nothing leaves float32 on the way.
    longer = torch.maximum(norm_a, norm_b)
    of_a.mul_((_quotient(longer, norm_a) * math.sqrt(1 - alpha)).float())
    of_b.mul_((_quotient(longer, norm_b) * math.sqrt(alpha)).float())
    distance = of_a.hypot_(of_b).copysign_(blend)
    return distance.mul_(_quotient(_norm(blend), _norm(distance)).float()).add_(c)


def model_stock(inputs: Sequence[Tensor], _values: Sequence[float] = ()) -> Tensor:
    """A + t mean(d), t = n cos / (1 + (n-1) cos): as near to the centre of all possible finetunes as n of them tell.

    d_i = the i-th further input minus A, n = their number, cos = the mean of cos(d_i, d_j) over all pairs; one t for
    a whole tensor. The paper has one angle for all pairs and does not say which; the mean over all pairs is
    mergekit's choice (sd-mecha takes neighbouring ones only).

    Args:
        inputs: the base A and two or more models finetuned from it, in any order.

    cos(0, d) is 0, and so is t where the mean is negative: differences that contradict each other leave A, where the
    formula would go to the far side of it without bounds. Source: Jang et al. 2024, arXiv 2403.19522, equation 2.
    """
    base, *others = inputs
    differences = [tensor - base for tensor in others]
    count = len(differences)
    cosines = torch.stack([_cosine(x, y) for x, y in combinations(differences, 2)])
    agreement = cosines.mean().clamp(0, 1)
    share = agreement / (1 + (count - 1) * agreement)  # t / n
    total = differences[0]
    for difference in differences[1:]:
        total.add_(difference)
    return total.mul_(share.float()).add_(base)


def geometric_median(inputs: Sequence[Tensor], _values: Sequence[float] = ()) -> Tensor:
    """The point whose distances to all inputs have the least sum.

    Weiszfeld's iteration, with Vardi and Zhang's step where it meets an input. Every point it can reach is a weighted
    mean of the inputs, whose distances follow from those between the inputs: it runs on n weights, not on tensors.

    Args:
        inputs: three or more, in any order.

    An input itself where that is the median, as one is that more than half of the inputs are equal to. Where all
    inputs lie on a line and the median is not unique, one of the medians. The mean of the inputs where a distance is
    NaN or infinite.
    Source: Weiszfeld 1937; Vardi and Zhang 2000, doi 10.1073/pnas.97.4.1423; sd-mecha.
    """
    squares = _squared_distances(inputs)
    if not all(math.isfinite(square) for row in squares for square in row):
        return n_average(inputs)
    weights = _median_weights(squares)
    if 1.0 in weights:
        return inputs[weights.index(1.0)]
    return task_arithmetic(inputs, weights[1:])


def _squared_distances(inputs: Sequence[Tensor]) -> list[list[float]]:
    """[n][n]; the one place where numbers leave the device."""
    count = len(inputs)
    pairs = list(combinations(range(count), 2))
    found = torch.stack([_norm(inputs[i] - inputs[j]) for i, j in pairs]).square_().tolist()
    squares = [[0.0] * count for _ in range(count)]
    for (i, j), square in zip(pairs, found, strict=True):
        squares[i][j] = squares[j][i] = square
    return squares


def _median_weights(squares: Sequence[Sequence[float]]) -> list[float]:
    """The weights whose mean of the inputs is their geometric median; they sum to 1.

    Args:
        squares: [n][n] squared distances between the inputs, finite.
    """
    count = len(squares)
    near = COINCIDENCE * math.sqrt(max(max(row) for row in squares))
    for k in range(count):
        corner = [float(i == k) for i in range(count)]
        if _median_step(corner, squares, near) == corner:
            return corner
    weights = [1 / count] * count
    for _ in range(MEDIAN_ROUNDS):
        before, weights = weights, _median_step(weights, squares, near)
        if max(abs(new - old) for new, old in zip(weights, before, strict=True)) <= MEDIAN_TOLERANCE:
            break
    return weights


def _median_step(weights: list[float], squares: Sequence[Sequence[float]], near: float) -> list[float]:
    """One step of Vardi and Zhang: Weiszfeld's where no input is near, less of it or none where some are."""
    distances = _distances(weights, squares)
    pulls = [0.0 if distance <= near else 1 / distance for distance in distances]
    whole = sum(pulls)
    if whole == 0:
        return weights
    target = [pull / whole for pull in pulls]
    held = sum(distance <= near for distance in distances)
    if not held:
        return target
    pull = whole * _distance(target, weights, squares)
    if pull <= held:
        return weights
    return [(1 - held / pull) * new + held / pull * old for new, old in zip(target, weights, strict=True)]


def _distances(weights: Sequence[float], squares: Sequence[Sequence[float]]) -> list[float]:
    """From x, the weighted mean of the inputs, to each input: |x - m_k|^2 = sum_i w_i (|m_i - m_k|^2 - |m_i - x|^2)."""
    means = [_sum_of_products(weights, row) for row in squares]
    spread = _sum_of_products(weights, means) / 2
    return [math.sqrt(max(0.0, mean - spread)) for mean in means]


def _distance(first: Sequence[float], second: Sequence[float], squares: Sequence[Sequence[float]]) -> float:
    """Between two weighted means of the inputs.

    |x - y|^2 = -1/2 sum_ij e_i e_j |m_i - m_j|^2, e = the difference of their weights, which sums to 0.
    """
    e = [x - y for x, y in zip(first, second, strict=True)]
    doubled = -_sum_of_products(e, [_sum_of_products(e, row) for row in squares])
    return math.sqrt(max(0.0, doubled) / 2)


def _sum_of_products(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    """Float64 scalar; 0 where one of them is 0."""
    return _quotient(_dot(x, y), _norm(x) * _norm(y))


def _norm(x: Tensor) -> Tensor:
    """Float64 scalar."""
    return _dot(x, x).sqrt_()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> as a float64 scalar on their device."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part_x, part_y in zip(torch.split(x.reshape(-1), PIECE), torch.split(y.reshape(-1), PIECE), strict=True):
        total += _products(part_x, part_y).sum()
    return total


def _products(x: Tensor, y: Tensor) -> Tensor:
    """xy in float64, where a product of two float32 numbers is exact."""
    return x.double().mul_(y)


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y; 0 where y is 0 or out of all proportion to x. NaN stays NaN."""
    return (x / y).masked_fill_(y.abs() <= x.abs() * LEAST_LENGTH_RATIO, 0.0)
