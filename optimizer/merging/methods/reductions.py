"""Merge methods that need norms, dot products or distances of whole tensors.

Notation: A, B, C ... = the inputs in order; r, alpha = `values`, one number for each slot that
studies/recipe/methods.py lists for the method; <x, y> = sum of x y over all elements, |x| = sqrt(<x, x>),
cos(x, y) = <x, y> / (|x| |y|); lerp(x, y, r) = (1-r)x + ry. "The whole tensor" is that of the file: a linear layer's
matrix, a convolution's kernels, a bias.

Every function takes float32 tensors of one shape (rank 0 to 4, also of one element) on one device and never changes
them. It returns float32 of that shape, which may be one of the inputs where nothing changes. Sums are float64, so that
their order and the tensor's size do not affect the result; operations on elements are float32. Finite inputs give no
NaN as long as their differences are finite, too; a NaN or an infinity spreads over the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from optimizer.merging.methods.elementwise import n_average, task_arithmetic

# Elements summed at a time, so that float64 copies stay small compared with the tensors.
CHUNK_ELEMENTS = 1 << 22
# The quotient of lengths whose ratio is smaller than this would exceed the range of float32; it is taken as 0.
LEAST_LENGTH_RATIO = 1e-30
# Angles in radians. Below the first, the great circle is a straight line in float32; within the second of pi, float32
# no longer determines the great circle.
NEARLY_PARALLEL = 1e-7
NEARLY_OPPOSITE = 1e-3
# Weiszfeld's iteration ends when no weight changes by more than this, or after this many rounds.
MEDIAN_TOLERANCE = 1e-10
MEDIAN_ROUNDS = 10_000  # a median close to an input, which it is not, is approached slowly
# Distance, as a share of the largest one, below which a point counts as an input. float64 cannot resolve less, because
# distances are computed from squares.
COINCIDENCE = 1e-7


def slerp(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Interpolate from A's direction to B's along the great circle, with the length lerp(|A|, |B|, r).

    The result is (sin((1-r) w) A/|A| + sin(r w) B/|B|) / sin(w) * lerp(|A|, |B|, r), w = the angle between A and B.
    It is lerp(A, B, r) where the great circle is undetermined: if A and B are (nearly) parallel or opposite, as tensors
    of one element always are, or if one of them is 0 or negligible against the other. Source: sd-mecha.

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives B itself.
    """
    a, b = inputs
    (ratio,) = values
    if ratio in (0, 1):
        return b if ratio else a
    weight_a, weight_b = _slerp_weights(_norm(a), _norm(b), _dot(a, b), ratio)
    return (a * weight_a).add_(b * weight_b)


def _slerp_weights(norm_a: Tensor, norm_b: Tensor, dot: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Compute the factors of A and B in a slerp, float32 scalars, from float64 scalars."""
    angle = torch.acos(_quotient(dot, norm_a * norm_b).clamp(-1, 1))
    shorter, longer = torch.minimum(norm_a, norm_b), torch.maximum(norm_a, norm_b)
    straight = (angle < NEARLY_PARALLEL) | (angle > math.pi - NEARLY_OPPOSITE)
    straight |= shorter <= longer * LEAST_LENGTH_RATIO
    length = _quotient(norm_a * (1 - ratio) + norm_b * ratio, torch.sin(angle))
    weight_a = _quotient(torch.sin(angle * (1 - ratio)) * length, norm_a)
    weight_b = _quotient(torch.sin(angle * ratio) * length, norm_b)
    return torch.where(straight, 1 - ratio, weight_a).float(), torch.where(straight, ratio, weight_b).float()


def cosine_a(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return lerp(A, B, clip(similarity - (1-r), 0, 1)): B where it is similar to A, and more of it for larger r.

    The similarity of an element is the cosine between its columns in A and B (a column: all elements that differ only
    in the first index, which is the effect of one input feature on all outputs). It is 0 where the column is 0 in A
    or in B. sd-mecha's add_cosine_a runs the other way, from lerp(B, A, similarity) to B: its result for B, A and alpha
    is the one here for A, B and r = 1 - alpha. Source: sd-mecha (add_cosine_a), after supermerger (cosineA), which
    first rescales the similarities of the whole model to 0..1.

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives lerp(A, B, similarity), not B.
    """
    a, b = inputs
    (ratio,) = values
    return a if ratio == 0 else _blend_similar(a, b, _column_cosines(a, b), ratio)


def cosine_b(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Compute `cosine_a` with another similarity: the mean of the columns' cosine and that of the whole tensors.

    The cosine with a tensor or column that is 0 is 0. Source: sd-mecha (add_cosine_b), after supermerger (cosineB).

    Args:
        inputs: A, B.
        values: r, 0 to 1; 0 gives A itself, 1 gives lerp(A, B, similarity), not B.
    """
    a, b = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    whole_cosine = _cosine(a, b).float()
    return _blend_similar(a, b, _column_cosines(a, b).add_(whole_cosine).mul_(0.5), ratio)


def _column_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosines between the columns of A and B: float32, of their shape without the first dimension."""
    rows_a, rows_b = (tensor.reshape(1) if tensor.dim() == 0 else tensor for tensor in (a, b))
    dot, square_a, square_b = (torch.zeros(rows_a.shape[1:], dtype=torch.float64, device=a.device) for _ in range(3))
    step = max(1, CHUNK_ELEMENTS // max(1, dot.numel()))
    for part_a, part_b in zip(torch.split(rows_a, step), torch.split(rows_b, step), strict=True):
        dot += _products(part_a, part_b).sum(0)
        square_a += _products(part_a, part_a).sum(0)
        square_b += _products(part_b, part_b).sum(0)
    return _quotient(dot, square_a.sqrt_() * square_b.sqrt_()).float()


def _blend_similar(a: Tensor, b: Tensor, similarity: Tensor, ratio: float) -> Tensor:
    share = (similarity - (1 - ratio)).clamp_(0, 1)
    return (b - a).mul_(share).add_(a)


def perpendicular(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return A + r (dB - dA <dA, dB> / |dA|^2), dA = A-C, dB = B-C: what B learned beyond C and A did not.

    Where A equals C, or dA is negligible against dB, there is no direction to be perpendicular to: all of r (B-C) is
    added (sd-mecha adds nothing where A equals C). Source: sd-mecha (add_perpendicular).

    Args:
        inputs: A, B, C.
        values: r; any number, 0 gives A itself.
    """
    a, b, c = inputs
    (ratio,) = values
    if ratio == 0:
        return a
    difference_a, difference_b = a - c, b - c
    in_common = _quotient(_dot(difference_a, difference_b), _dot(difference_a, difference_a)).float()
    return difference_b.sub_(difference_a.mul_(in_common)).mul_(ratio).add_(a)


def euclidean_add_difference(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return C + D/|D| |S|, S = lerp(A, B, alpha) - C, D = sign(S) sqrt((1-alpha) (dA/|dA|)^2 + alpha (dB/|dB|)^2).

    dA = A-C, dB = B-C; signs, squares and roots are taken element by element. The direction dA/|dA| of a difference
    that is 0 is 0. The result is C where S is 0; the sign of an element of S that is 0 is +. Source: sd-meh.

    Args:
        inputs: A, B, C.
        values: alpha, 0 to 1; 0 gives A and 1 gives B, both to within rounding.
    """
    a, b, c = inputs
    (alpha,) = values
    difference_a, difference_b = a - c, b - c
    norm_a, norm_b = _norm(difference_a), _norm(difference_b)
    blend = difference_a.lerp(difference_b, alpha)
    # Directions are scaled by the longer length, which cancels in D/|D|, so that no value leaves the range of float32.
    longer = torch.maximum(norm_a, norm_b)
    difference_a.mul_((_quotient(longer, norm_a) * math.sqrt(1 - alpha)).float())
    difference_b.mul_((_quotient(longer, norm_b) * math.sqrt(alpha)).float())
    distance = difference_a.hypot_(difference_b).copysign_(blend)
    return distance.mul_(_quotient(_norm(blend), _norm(distance)).float()).add_(c)


def model_stock(inputs: Sequence[Tensor], _values: Sequence[float] = ()) -> Tensor:
    """Return A + t mean(d), t = n cos / (1 + (n-1) cos): an estimate of the centre of all possible finetunes of A.

    d_i = the i-th further input minus A, n = their number, cos = the mean of cos(d_i, d_j) over all pairs; one t for a
    whole tensor. The paper has one angle for all pairs and does not say which; the mean over all pairs is mergekit's
    choice (sd-mecha uses adjacent pairs only). cos(0, d) is 0. t is 0 where the mean is negative: differences that
    contradict each other give A, where the formula would move away from them without bound.
    Source: Jang et al. 2024, arXiv 2403.19522, equation 2.

    Args:
        inputs: the base A and two or more models finetuned from it, in any order.
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
    """Return the point whose distances to all inputs have the smallest sum.

    Weiszfeld's iteration, with Vardi and Zhang's step where it meets an input. Every point of the iteration is a
    weighted mean of the inputs, whose distances follow from those between the inputs, so it runs on n weights instead
    of tensors. The result is an input itself where that is the median, as when more than half of the inputs are equal;
    one of the medians where all inputs lie on a line and the median is not unique; and the mean of the inputs where a
    distance is NaN or infinite.
    Source: Weiszfeld 1937; Vardi and Zhang 2000, doi 10.1073/pnas.97.4.1423; sd-mecha.

    Args:
        inputs: three or more, in any order.
    """
    squares = _squared_distances(inputs)
    if not all(math.isfinite(square) for row in squares for square in row):
        return n_average(inputs)
    weights = _median_weights(squares)
    if 1.0 in weights:
        return inputs[weights.index(1.0)]
    return task_arithmetic(inputs, weights[1:])


def _squared_distances(inputs: Sequence[Tensor]) -> list[list[float]]:
    """Compute the squared distances between all inputs, [n][n]; the only copy from the device to the host."""
    count = len(inputs)
    pairs = list(combinations(range(count), 2))
    pair_squares = torch.stack([_norm(inputs[i] - inputs[j]) for i, j in pairs]).square_().tolist()
    squares = [[0.0] * count for _ in range(count)]
    for (i, j), square in zip(pairs, pair_squares, strict=True):
        squares[i][j] = squares[j][i] = square
    return squares


def _median_weights(squares: Sequence[Sequence[float]]) -> list[float]:
    """Compute the weights, with sum 1, whose weighted mean of the inputs is their geometric median.

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
    """Take one step of Vardi and Zhang: Weiszfeld's where no input is near, a shorter one or none where some are."""
    distances = _distances(weights, squares)
    pulls = [0.0 if distance <= near else 1 / distance for distance in distances]
    total_pull = sum(pulls)
    if total_pull == 0:
        return weights
    target = [pull / total_pull for pull in pulls]
    near_count = sum(distance <= near for distance in distances)
    if not near_count:
        return target
    pull = total_pull * _distance(target, weights, squares)
    if pull <= near_count:
        return weights
    return [(1 - near_count / pull) * new + near_count / pull * old for new, old in zip(target, weights, strict=True)]


def _distances(weights: Sequence[float], squares: Sequence[Sequence[float]]) -> list[float]:
    """Compute the distances from x, the weighted mean of the inputs m_i, to each input.

    |x - m_k|^2 = sum_i w_i (|m_i - m_k|^2 - |m_i - x|^2).
    """
    means = [_sum_of_products(weights, row) for row in squares]
    spread = _sum_of_products(weights, means) / 2
    return [math.sqrt(max(0.0, mean - spread)) for mean in means]


def _distance(first: Sequence[float], second: Sequence[float], squares: Sequence[Sequence[float]]) -> float:
    """Compute the distance between two weighted means of the inputs.

    |x - y|^2 = -1/2 sum_ij e_i e_j |m_i - m_j|^2, e = the difference of their weights, which sums to 0.
    """
    e = [x - y for x, y in zip(first, second, strict=True)]
    doubled = -_sum_of_products(e, [_sum_of_products(e, row) for row in squares])
    return math.sqrt(max(0.0, doubled) / 2)


def _sum_of_products(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    """Compute the cosine between two tensors, a float64 scalar; 0 where one of them is 0."""
    return _quotient(_dot(x, y), _norm(x) * _norm(y))


def _norm(x: Tensor) -> Tensor:
    """Compute the Euclidean norm, a float64 scalar."""
    return _dot(x, x).sqrt_()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Compute <x, y>, a float64 scalar on their device."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    chunks_x, chunks_y = (torch.split(tensor.reshape(-1), CHUNK_ELEMENTS) for tensor in (x, y))
    for part_x, part_y in zip(chunks_x, chunks_y, strict=True):
        total += _products(part_x, part_y).sum()
    return total


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Multiply elements in float64, in which a product of two float32 numbers is exact."""
    return x.double().mul_(y)


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """Return x / y; 0 where y is 0 or negligible against x. NaN stays NaN."""
    return (x / y).masked_fill_(y.abs() <= x.abs() * LEAST_LENGTH_RATIO, 0.0)
