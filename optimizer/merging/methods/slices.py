"""Methods that take whole elements from one place or the other: by row, or by rank.

Notation: A, B = the inputs; n = rows or elements; a window = the share `width` of n from the share `offset` on, going
on at the beginning where it passes the end. Each element of the result is copied from an input, never computed.
Inputs are float32 tensors of one shape and left alone; the result is like them, and may be one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimizer.merging.methods.selection import largest


def tensor_sum(inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """Rows of B inside the window, rows of A outside it.

    A row is everything under one index of the first dimension, and inside where its middle is: row i of n where
    (i + 1/2) / n lies in the window. So windows that follow each other share no row and leave none out. A scalar is
    one row. Ratio 0 gives A, ratio 1 gives B. O(n). Source: supermerger ("tensor"), sd-meh; their edges are rounded
    down, those of sd-mecha to the nearest row, as here.

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
    """A with its values put into the order of B's, but only those inside the window of A's magnitudes.

    With both sorted ascending, the place that holds B's i-th value receives A's i-th value, if the rank of that
    value's magnitude among A's is in the window (0 = the smallest); other places keep what A has there. So exactly the
    window's share of the places are written. Equal values of B rank by position, the first one lowest; equal
    magnitudes of A by value, the lower one highest. Width 0 gives A; width 1 is all of A's values in the order of B's.
    Two sorts: O(n log n), 24 bytes of work space an element. Source: sd-meh, where the window is between two
    magnitudes and equal ones go together.

    Args:
        inputs: two.
        values: width, 0..1, a ratio; offset, 0..1.
    """
    (first, second), (width, offset) = inputs, values
    if width == 0:
        return first
    ascending = first.reshape(-1).sort(stable=True).values
    inside = _in_window(ascending.abs(), width, offset)
    places = second.reshape(-1).argsort(stable=True)[inside]
    result = first.reshape(-1).clone()
    result[places] = ascending[inside]
    return result.reshape(first.shape)


def _windows(width: float, offset: float, total: int) -> list[slice]:
    """The window as one or two ranges of whole numbers below `total`: those whose middles lie in it."""
    start, stop = (math.ceil(edge * total - 0.5) for edge in (offset, offset + width))
    return [slice(start, min(stop, total)), slice(0, max(stop - total, 0))]


def _in_window(sizes: Tensor, width: float, offset: float) -> Tensor:
    """True where the rank of an element, 0 = the smallest, lies in the window."""
    total = sizes.numel()
    if width == 1:
        return torch.ones_like(sizes, dtype=torch.bool)
    inside = torch.zeros_like(sizes, dtype=torch.bool)
    for window in _windows(width, offset, total):
        inside |= largest(sizes, total - window.start) & ~largest(sizes, total - window.stop)
    return inside
