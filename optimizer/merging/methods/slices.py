"""Merge methods that copy elements instead of computing them: by row, or by rank.

Notation: A, B = the inputs; n = the number of rows or elements; a window = the share `width` of n that starts at the
share `offset`, wrapping around at the end. Inputs are float32 tensors of one shape, and are not changed. The result has
that dtype and shape, and may be one of the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimizer.merging.methods.selection import largest


def tensor_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Take the rows of B inside the window, and those of A outside it.

    A row is everything under one index of the first dimension. Row i of n is inside if its middle, (i + 1/2) / n, lies
    in the window, so adjacent windows share no row and leave none out. A scalar is one row. Ratio 0 gives A, ratio 1
    gives B. O(n). Source: supermerger ("tensor") and sd-meh, which round the edges down; sd-mecha rounds them to the
    nearest row, as here.

    Args:
        inputs: two.
        values: ratio, 0..1, the width of the window; offset, 0..1.
    """
    (first, second), (ratio, offset) = inputs, values
    if ratio in {0, 1}:
        return second if ratio else first
    rows = len(first) if first.ndim else 1
    result = first.clone()
    for window in _windows(ratio, offset, rows):
        if first.ndim:
            result[window] = second[window]
        elif window.start < window.stop:
            return second
    return result


def top_k_tensor_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Reorder A's values as B's are ordered, but only those inside the window of A's magnitudes.

    With both sorted ascending, the position of B's i-th value receives A's i-th value if the rank of that value's
    magnitude in A is in the window (0 = the smallest); other positions keep A's value. So exactly the window's share of
    positions is written. Equal values of B rank by position, the first one lowest; equal magnitudes of A by value, the
    lower one highest. Width 0 gives A; width 1 gives all of A's values in the order of B's. Two sorts: O(n log n),
    24 bytes of temporary memory an element. Source: sd-meh, whose window lies between two magnitudes, with equal ones
    either all inside or all outside.

    Args:
        inputs: two.
        values: width, 0..1, a ratio; offset, 0..1.
    """
    (first, second), (width, offset) = inputs, values
    if width == 0:
        return first
    ascending = first.reshape(-1).sort(stable=True).values
    inside = _in_window(ascending.abs(), width, offset)
    positions = second.reshape(-1).argsort(stable=True)[inside]
    result = first.reshape(-1).clone()
    result[positions] = ascending[inside]
    return result.reshape(first.shape)


def _windows(width: float, offset: float, total: int) -> list[slice]:
    """Return the indices below `total` whose middles lie in the window, as two ranges, which may be empty."""
    start, stop = (math.ceil(edge * total - 0.5) for edge in (offset, offset + width))
    return [slice(start, min(stop, total)), slice(0, max(stop - total, 0))]


def _in_window(sizes: Tensor, width: float, offset: float) -> Tensor:
    """Select the elements whose rank, 0 = the smallest, lies in the window; bool, of the shape of `sizes`."""
    total = sizes.numel()
    if width == 1:
        return torch.ones_like(sizes, dtype=torch.bool)
    inside = torch.zeros_like(sizes, dtype=torch.bool)
    for window in _windows(width, offset, total):
        inside |= largest(sizes, total - window.start) & ~largest(sizes, total - window.stop)
    return inside
