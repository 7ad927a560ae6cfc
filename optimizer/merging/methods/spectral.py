"""Merge methods in another basis: by frequency, and after a rotation.

Notation: A, B, C = the inputs, float32 tensors of one shape, which are not changed; the result is float32 of that shape
and may be an input itself. lerp(x, y, r) = (1-r) x + r y.

Fractional powers of a rotation: a proper rotation Q (orthogonal, determinant 1) turns planes by angles t in 0..pi. Its
symmetric part S = (Q + Q^T)/2 has the eigenvalues cos t, its skew part K = (Q - Q^T)/2 commutes with S, and
    Q^x = cos(x t)(S) + [sin(x t) / sin t](S) K,
where f(t)(S) applies f to the angle of each eigenvalue of S. The result is real by construction, and needs one
symmetric eigenproblem. For t = pi the second factor has no limit, and Q does not determine the plane: any plane serves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Angles within this distance of pi (radians) count as pi: there, sin(x t) / sin t would amplify rounding errors of K.
_HALF_TURN = 1e-6


def distribution_crossover(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Combine A's low and B's high frequencies, with both sorted in the order of C's values.

    The share of B at frequency f (0..1, of the highest) rises from 0 to 1 over `width`, around a middle that goes from
    1 + width/2 at alpha 0 to -width/2 at alpha 1: clip((f - (1-alpha)(1+width)) / width + 1); for width 0 it is a step
    at 1-alpha. Alpha 0 gives A and alpha 1 gives B, at every width. Equal values of C rank by position. A tensor of one
    element has no frequencies: lerp(A, B, alpha). One sort and three Fourier transforms: O(n log n), 40 bytes of
    temporary memory an element. Source: sd-meh, whose alpha is 1 - alpha here; its transition is centred on alpha, so
    that a wide one leaves a part of the other model at both ends.

    Args:
        inputs: three; C only determines the order.
        values: alpha, 0..1, a ratio; width, 0..1.
    """
    (first, second, order_of), (alpha, width) = inputs, values
    if alpha in {0, 1}:
        return second if alpha else first
    total = first.numel()
    if total == 1:
        return torch.lerp(first, second, alpha)
    order = order_of.reshape(-1).argsort(stable=True)
    low = torch.fft.rfft(first.reshape(-1)[order])
    high = torch.fft.rfft(second.reshape(-1)[order])
    low += _share_of_high(len(low), alpha, width, low.device) * (high - low)
    result = torch.empty_like(first.reshape(-1))
    result[order] = torch.fft.irfft(low, total)
    return result.reshape(first.shape)


def _share_of_high(count: int, alpha: float, width: float, device: torch.device) -> Tensor:
    frequency = torch.arange(count, dtype=torch.float64, device=device) / count
    if width == 0:
        return (frequency >= 1 - alpha).float()
    # Multiplied out, so that a width too small to divide by is a step as well.
    rise = frequency - (1 - alpha) * (1 + width) + width
    return (rise.clamp(0, width) / width).float()


def rotate(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Return lerp(A', B' Q^-1, ratio) Q^alignment + lerp(mean A, mean B, alignment), Q = the rotation from A' to B'.

    Rows are neurons: a matrix has one per output, a convolution larger than 1x1 one per pair of output and input
    channel. A', B' = the rows minus their mean; Q = the orthogonal matrix with the least |A' Q - B'| (Schönemann 1966).
    Both values 0 give A, both 1 give B. Alignment 1 with ratio 0 turns A' as close to B' as possible; ratio 1 with
    alignment 0 turns B' back to A'.

    Where A' and B' do not determine Q (fewer rows than columns, columns of zeros), the undetermined part turns as
    little as possible. For an alignment strictly between 0 and 1, a Q that reflects is replaced by the nearest one that
    does not, since reflections have no real fractional powers; at 0 and 1 it may reflect. Vectors, scalars and matrices
    of one row cannot be turned: lerp(A, B, ratio) at every alignment.

    Computed in float64: O(n m + m^3) for n elements, m = twice the number of rows or the number of columns, whichever
    is less. On one CPU core 2 s for 1280x1280, 5 s for 10240x1280, 20 s for 1280x5120; about 50 bytes of temporary
    memory an element. A NaN or infinity anywhere makes the whole result NaN. Source: sd-meh; sd-mecha (rotate), whose
    map for fewer rows than columns is not orthogonal.

    Args:
        inputs: two.
        values: ratio, 0..1; alignment, 0..1, a ratio as well.
    """
    (first, second), (ratio, alignment) = inputs, values
    if ratio == alignment and ratio in {0, 1}:
        return second if ratio else first
    rows = _row_count(first.shape)
    if rows < 2 or torch.equal(first, second):
        return torch.lerp(first, second, ratio)
    if not all(tensor.isfinite().all() for tensor in inputs):
        return torch.full_like(first, math.nan)  # the decompositions would raise
    a, b = (tensor.reshape(rows, -1).double() for tensor in inputs)
    mean_a, mean_b = a.mean(0), b.mean(0)
    blend = _rotated_blend(a - mean_a, b - mean_b, ratio, alignment)
    return blend.add_(torch.lerp(mean_a, mean_b, alignment)).float().reshape(first.shape)


def _row_count(shape: Sequence[int]) -> int:
    """Return how many neurons a tensor of this shape has."""
    if len(shape) < 2:
        return 1
    is_convolution = len(shape) == 4 and shape[2] * shape[3] > 1
    return shape[0] * shape[1] if is_convolution else shape[0]


def _rotated_blend(a: Tensor, b: Tensor, ratio: float, alignment: float) -> Tensor:
    """Compute lerp(a, b Q^-1, ratio) Q^alignment for centred rows: a, b, result [rows, columns], float64."""
    if 2 * len(a) < a.shape[1]:  # all rows lie in a space of fewer dimensions, and nothing turns outside it
        basis: Tensor = torch.linalg.qr(torch.cat([a, b]).T).Q
        return _rotated_blend(a @ basis, b @ basis, ratio, alignment) @ basis.T
    rotation = _nearest_rotation(a, b, proper=alignment not in {0, 1})
    return torch.lerp(a, b @ rotation.T, ratio) @ _power(rotation, alignment)


def _nearest_rotation(a: Tensor, b: Tensor, *, proper: bool) -> Tensor:
    """Return the orthogonal Q [columns, columns] with the least |a Q - b|, of several the nearest to the identity.

    Args:
        a, b: [rows, columns].
        proper: require the determinant 1.
    """
    left, sizes, right = _svd_of_product(a, b)
    columns = len(left)
    rank = int((sizes > sizes[0] * columns * torch.finfo(sizes.dtype).eps).sum())
    left, right = left[:, :rank], right[:, :rank]
    if rank < columns:
        free_left, free_right = _complement(left), _complement(right)
        u, _, vh = torch.linalg.svd(free_left.T @ free_right)
        left, right = torch.cat([left, free_left @ u], 1), torch.cat([right, free_right @ vh.T], 1)
    rotation = left @ right.T
    if proper and torch.linalg.det(rotation) < 0:
        rotation -= 2 * torch.outer(left[:, -1], right[:, -1])  # the direction in which it costs least
    return rotation


def _svd_of_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute U, S, V of a^T b [columns, columns], with only as many singular values as rows where those are fewer."""
    if len(a) >= a.shape[1]:
        u, sizes, vh = torch.linalg.svd(a.T @ b)
        return u, sizes, vh.T
    basis_a, inner_a = torch.linalg.qr(a.T)
    basis_b, inner_b = torch.linalg.qr(b.T)
    u, sizes, vh = torch.linalg.svd(inner_a @ inner_b.T)
    return basis_a @ u, sizes, basis_b @ vh.T


def _complement(basis: Tensor) -> Tensor:
    """Return an orthonormal basis of the orthogonal complement of these columns: [n, k] -> [n, n - k]."""
    complete: Tensor = torch.linalg.qr(basis, mode="complete").Q
    return complete[:, basis.shape[1] :]


def _power(rotation: Tensor, exponent: float) -> Tensor:
    """Return the orthogonal matrix rotation^exponent.

    Args:
        rotation: orthogonal; of determinant 1 for exponents strictly between 0 and 1.
        exponent: 0..1.
    """
    if exponent == 0:
        return torch.eye(len(rotation), dtype=rotation.dtype, device=rotation.device)
    if exponent == 1:
        return rotation
    cosines, vectors = torch.linalg.eigh((rotation + rotation.T) / 2)  # ascending
    half_turns = int((cosines < -math.cos(_HALF_TURN)).sum())
    half_turns += half_turns % 2  # they come in pairs, of which one may be just above the threshold
    angles = cosines[half_turns:].clamp(-1, 1).arccos()
    basis = vectors[:, half_turns:]
    ratios = exponent * torch.sinc(exponent * angles / math.pi) / torch.sinc(angles / math.pi)
    result: Tensor = basis * (exponent * angles).cos() @ basis.T
    result += basis * ratios @ basis.T @ (rotation - rotation.T).div_(2)
    return result + _half_turn(vectors[:, :half_turns], exponent)


def _half_turn(vectors: Tensor, exponent: float) -> Tensor:
    """Return the rotation by exponent * pi in each plane that two successive columns span."""
    first, second = vectors[:, ::2], vectors[:, 1::2]
    outer = second @ first.T
    angle = exponent * math.pi
    return math.cos(angle) * (vectors @ vectors.T) + math.sin(angle) * (outer - outer.T)
