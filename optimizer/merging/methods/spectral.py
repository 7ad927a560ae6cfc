"""Methods that merge in another basis: by frequency, and after a rotation.

Notation: A, B, C = the inputs, float32 tensors of one shape, left alone; the result is float32 of that shape and may
be an input itself. lerp(x, y, r) = (1-r) x + r y.

Fractional powers of a rotation. A proper rotation Q (orthogonal, determinant 1) turns planes by angles t in 0..pi. Its
symmetric part S = (Q + Q^T)/2 has the eigenvalues cos t, its skew part K = (Q - Q^T)/2 commutes with S, and
    Q^x = cos(x t)(S) + [sin(x t) / sin t](S) K,
where f(t)(S) is f taken of the angle of each eigenvalue of S. Real by construction, one symmetric eigenproblem. For
t = pi the second factor has no limit, and the plane is not determined by Q either: any will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Angles this near to pi (radians) count as pi: below, sin(x t) / sin t would enlarge rounding errors of K too much.
_HALF_TURN = 1e-6


def distribution_crossover(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """A and B sorted in the order of C, A's low and B's high frequencies of that sequence, put back.

    The share of B at frequency f (0..1, of the highest) rises from 0 to 1 over `width`, around a middle that goes from
    1 + width/2 at alpha 0 to -width/2 at alpha 1: clip((f - (1-alpha)(1+width)) / width + 1), and a step at 1-alpha
    for width 0. Alpha 0 gives A, alpha 1 gives B, at every width. Equal values of C rank by position. A tensor of one
    element has no frequencies: lerp(A, B, alpha). One sort and three Fourier transforms: O(n log n), 40 bytes of work
    space an element. Source: sd-meh, whose alpha is 1 - alpha here and whose transition is centred on it, so that a
    wide one leaves some of the other model at both ends.

    Args:
        inputs: three; C only gives the order.
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
    """lerp(A', B' Q^-1, ratio) Q^alignment + lerp(mean A, mean B, alignment), Q turning A' into what is nearest to B'.

    Rows are neurons: a matrix has one per output, a convolution larger than 1x1 one per pair of output and input
    channel. A', B' = the rows less their mean; Q = the orthogonal matrix with the least |A' Q - B'| (Schönemann
    1966). Both values 0 give A, both 1 give B. Alignment 1 and ratio 0: A' turned as near to B' as it will go; ratio 1
    and alignment 0: B' turned back to A'.

    Where A' and B' do not determine Q (fewer rows than columns, columns of zeros), it turns what is left as little as
    can be. For an alignment strictly between 0 and 1 a Q that reflects is replaced by the nearest that does not, since
    reflections have no real power between; at 0 and 1 it may reflect. Vectors, scalars and matrices of one row have
    nothing to turn: lerp(A, B, ratio), whatever the alignment.

    In float64, on any size of tensor: O(n m + m^3) for n elements, m = twice the number of rows or the number of
    columns, whichever is less. On one CPU core 2 s for 1280x1280, 5 s for 10240x1280, 20 s for 1280x5120; some
    50 bytes of work space an element. A NaN or infinity anywhere makes the whole result NaN. Source: sd-meh; sd-mecha
    (rotate), whose map for fewer rows than columns is not orthogonal.

    Args:
        inputs: two.
        values: ratio, 0..1; alignment, 0..1, a ratio as well.
    """
    (first, second), (ratio, alignment) = inputs, values
    if ratio == alignment and ratio in {0, 1}:
        return second if ratio else first
    rows = _rows(first.shape)
    if rows < 2 or torch.equal(first, second):
        return torch.lerp(first, second, ratio)
    if not all(tensor.isfinite().all() for tensor in inputs):
        return torch.full_like(first, math.nan)  # the decompositions would raise
    a, b = (tensor.reshape(rows, -1).double() for tensor in inputs)
    mean_a, mean_b = a.mean(0), b.mean(0)
    turned = _turned_blend(a - mean_a, b - mean_b, ratio, alignment)
    return turned.add_(torch.lerp(mean_a, mean_b, alignment)).float().reshape(first.shape)


def _rows(shape: Sequence[int]) -> int:
    """How many neurons a tensor of this shape has."""
    if len(shape) < 2:
        return 1
    is_convolution = len(shape) == 4 and shape[2] * shape[3] > 1
    return shape[0] * shape[1] if is_convolution else shape[0]


def _turned_blend(a: Tensor, b: Tensor, ratio: float, alignment: float) -> Tensor:
    """lerp(a, b Q^-1, ratio) Q^alignment for centred rows: a, b, result [rows, columns], float64."""
    if 2 * len(a) < a.shape[1]:  # all rows lie in a space of fewer dimensions, and nothing turns outside it
        basis: Tensor = torch.linalg.qr(torch.cat([a, b]).T).Q
        return _turned_blend(a @ basis, b @ basis, ratio, alignment) @ basis.T
    turn = _nearest_turn(a, b, proper=alignment not in {0, 1})
    return torch.lerp(a, b @ turn.T, ratio) @ _power(turn, alignment)


def _nearest_turn(a: Tensor, b: Tensor, *, proper: bool) -> Tensor:
    """The orthogonal Q [columns, columns] with the least |a Q - b|, the nearest to the identity if there are several.

    Args:
        a, b: [rows, columns].
        proper: only those of determinant 1.
    """
    left, sizes, right = _svd_of_product(a, b)
    columns = len(left)
    rank = int((sizes > sizes[0] * columns * torch.finfo(sizes.dtype).eps).sum())
    left, right = left[:, :rank], right[:, :rank]
    if rank < columns:
        free_left, free_right = _complement(left), _complement(right)
        u, _, vh = torch.linalg.svd(free_left.T @ free_right)
        left, right = torch.cat([left, free_left @ u], 1), torch.cat([right, free_right @ vh.T], 1)
    turn = left @ right.T
    if proper and torch.linalg.det(turn) < 0:
        turn -= 2 * torch.outer(left[:, -1], right[:, -1])  # the direction in which it costs least
    return turn


def _svd_of_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of a^T b [columns, columns], with as many singular values as rows where those are fewer."""
    if len(a) >= a.shape[1]:
        u, sizes, vh = torch.linalg.svd(a.T @ b)
        return u, sizes, vh.T
    basis_a, inner_a = torch.linalg.qr(a.T)
    basis_b, inner_b = torch.linalg.qr(b.T)
    u, sizes, vh = torch.linalg.svd(inner_a @ inner_b.T)
    return basis_a @ u, sizes, basis_b @ vh.T


def _complement(basis: Tensor) -> Tensor:
    """An orthonormal basis of what is at right angles to these columns: [n, k] -> [n, n - k]."""
    whole: Tensor = torch.linalg.qr(basis, mode="complete").Q
    return whole[:, basis.shape[1] :]


def _power(turn: Tensor, exponent: float) -> Tensor:
    """turn^exponent for an exponent of 0..1; orthogonal. Strictly between, `turn` is of determinant 1."""
    if exponent == 0:
        return torch.eye(len(turn), dtype=turn.dtype, device=turn.device)
    if exponent == 1:
        return turn
    cosines, vectors = torch.linalg.eigh((turn + turn.T) / 2)  # ascending
    half_turns = int((cosines < -math.cos(_HALF_TURN)).sum())
    half_turns += half_turns % 2  # they come in pairs, and one of a pair may just have passed
    angles = cosines[half_turns:].clamp(-1, 1).arccos()
    basis = vectors[:, half_turns:]
    ratios = exponent * torch.sinc(exponent * angles / math.pi) / torch.sinc(angles / math.pi)
    result: Tensor = basis * (exponent * angles).cos() @ basis.T
    result += basis * ratios @ basis.T @ (turn - turn.T).div_(2)
    return result + _half_turn(vectors[:, :half_turns], exponent)


def _half_turn(vectors: Tensor, exponent: float) -> Tensor:
    """That share of a half turn in the planes that each two of these columns span."""
    one, other = vectors[:, ::2], vectors[:, 1::2]
    turned = other @ one.T
    angle = exponent * math.pi
    return math.cos(angle) * (vectors @ vectors.T) + math.sin(angle) * (turned - turned.T)
