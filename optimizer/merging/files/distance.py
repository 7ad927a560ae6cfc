r"""Distances between two checkpoints: of single tensors, of places, and over all.

Notation: a and b are the same tensor of files A and B, d = b - a, ||.|| the Euclidean norm over all elements.

    relative distance    ||d|| / ||a||
    cosine               <d, a> / (||d|| ||a||)

Several tensors count as one long vector, so a place's distance is sqrt(sum ||d||^2) / sqrt(sum ||a||^2). In the mean of
its tensors' distances, a bias of 320 elements would weigh as much as a matrix of 13 million.

All sums are float64. They are combined with `math.fsum`, which rounds once, so the order in which tensors are read does
not change a bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.errors import ParentsDifferError
from optimizer.merging.files.checkpoint import Checkpoint, is_mergeable
from search_spaces.blocks import EMA, place_of

# 128 KB of float64 fit a core's cache, and are too few elements for torch to use several threads: where other programs
# keep the cores busy, waiting for the threads at every chunk takes far longer than the sums.
CHUNK_ELEMENTS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Sums over one tensor pair, or over several pairs: see `combined`."""

    tensors: int
    size: int  # elements
    identical: int  # tensors whose values are all the same in both files, whatever their dtypes
    squared_difference: float  # ||d||^2; NaN or infinite if either file has such values
    squared_norm: float  # ||a||^2
    inner: float  # <d, a>

    @property
    def finite(self) -> bool:
        """Whether neither file holds NaN or infinity; otherwise there is no distance."""
        return math.isfinite(self.squared_difference) and math.isfinite(self.squared_norm)

    @property
    def relative(self) -> float:
        """||d|| / ||a||: 0 for equal values, infinite where A is all zeros and B is not, NaN where not `finite`."""
        if not self.finite:
            return math.nan
        if self.squared_difference == 0:
            return 0.0
        if self.squared_norm == 0:
            return math.inf
        return math.sqrt(self.squared_difference) / math.sqrt(self.squared_norm)

    @property
    def cosine(self) -> float | None:
        """Cosine between the difference and A, in -1..1; None where either is zero or not finite.

        Near 0, as after any training, the difference has no relation to A; near -1 or 1, B is a scaled A.
        """
        norms = math.sqrt(self.squared_difference) * math.sqrt(self.squared_norm) if self.finite else 0.0
        return max(-1.0, min(1.0, self.inner / norms)) if norms > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDistance:
    """The distance of a tensor that both files have, in shapes that fit."""

    key: str
    place: str
    distance: Distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A comparison of two files of one architecture.

    Every key of either file is in exactly one of the fields, except EMA copies, which are in none.
    """

    tensors: tuple[TensorDistance, ...]  # those that a merge averages, in A's order
    # Keys, each tuple sorted:
    unaveraged: tuple[str, ...]  # integers, schedules and markers that are equal; a merge keeps A's
    unaveraged_different: tuple[str, ...]  # the same kinds, where they are not equal
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    other_shapes: tuple[str, ...]  # shapes differ by more than ones at the end

    def by_place(self) -> dict[str, Distance]:
        """Return the distance of each place that has tensors, in the order they appear in A."""
        distances: dict[str, list[Distance]] = {}
        for tensor in self.tensors:
            distances.setdefault(tensor.place, []).append(tensor.distance)
        return {place: combined(of_tensors) for place, of_tensors in distances.items()}

    def most_different(self, count: int) -> tuple[TensorDistance, ...]:
        """Return the tensors with the largest relative distances, largest first; those not finite precede all."""
        return tuple(sorted(self.tensors, key=_largest_first)[:count])


def _largest_first(tensor: TensorDistance) -> tuple[float, str]:
    return (-tensor.distance.relative if tensor.distance.finite else -math.inf, tensor.key)


def tensor_distance(a: Tensor, b: Tensor) -> Distance:
    """Compute the distance of two floating tensors of one size and any dtypes, on the CPU.

    NaN and infinity do not raise; they make the distance not `finite`. Both tensors are read in chunks of
    `CHUNK_ELEMENTS`, so the memory used does not grow with their size.
    """
    squared_difference, squared_norm, inner = [], [], []
    equal = True
    flat_a, flat_b = a.flatten(), b.flatten()
    for start in range(0, a.numel(), CHUNK_ELEMENTS):
        base = _float64(flat_a[start : start + CHUNK_ELEMENTS])
        difference = _float64(flat_b[start : start + CHUNK_ELEMENTS]) - base
        squared_difference.append(_inner(difference, difference))
        equal = equal and squared_difference[-1] == 0 and not bool(difference.any())  # a square may underflow
        squared_norm.append(_inner(base, base))
        inner.append(_inner(difference, base))
    return Distance(
        tensors=1,
        size=a.numel(),
        identical=int(equal),
        squared_difference=_exact_sum(squared_difference),
        squared_norm=_exact_sum(squared_norm),
        inner=_exact_sum(inner),
    )


def _float64(part: Tensor) -> Tensor:
    """Convert any dtype exactly; narrow dtypes via float32, which is faster."""
    return (part.float() if part.dtype.itemsize < 4 else part).to(torch.float64)


def _inner(x: Tensor, y: Tensor) -> float:
    """Compute <x, y> of one chunk.

    `torch.dot` is not used: BLAS has threads of its own, and its rounding depends on how its input is aligned.
    """
    return float((x * y).sum())


def combined(distances: Iterable[Distance]) -> Distance:
    """Return the distance of several tensors as one long vector; of none, everything is 0."""
    parts = tuple(distances)
    return Distance(
        tensors=sum(part.tensors for part in parts),
        size=sum(part.size for part in parts),
        identical=sum(part.identical for part in parts),
        squared_difference=_exact_sum([part.squared_difference for part in parts]),
        squared_norm=_exact_sum([part.squared_norm for part in parts]),
        inner=_exact_sum([part.inner for part in parts]),
    )


def _exact_sum(values: list[float]) -> float:
    """Return `math.fsum`, or NaN where a value is not finite: `math.fsum` raises for opposite infinities."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def compare(a: Checkpoint, b: Checkpoint, progress: Callable[[int], None] | None = None) -> Comparison:
    """Compare two files, reading each once, one tensor pair at a time.

    Args:
        progress: called with the bytes of each pair that was compared; they add up to `compared_bytes`.

    Raises:
        CheckpointError: one of them is of no known family.
        ParentsDifferError: they are of different architectures.
    """
    _require_one_architecture(a, b)
    fitting_keys, other_shapes = _shared_keys(a, b)
    distances: list[TensorDistance] = []
    equal: list[str] = []
    different: list[str] = []
    for key in fitting_keys:
        first, second = a.tensor(key), b.tensor(key)
        if _is_averaged(key, a, b):
            place = place_of(key, a.architecture)
            distances.append(TensorDistance(key=key, place=place, distance=tensor_distance(first, second)))
        else:
            same = bool((first.double() == second.double().view(first.shape)).all())
            (equal if same else different).append(key)
        if progress is not None:
            progress(a.tensors[key].nbytes + b.tensors[key].nbytes)
    return Comparison(
        tensors=tuple(distances),
        unaveraged=tuple(sorted(equal)),
        unaveraged_different=tuple(sorted(different)),
        only_in_a=_only_in(a, b),
        only_in_b=_only_in(b, a),
        other_shapes=tuple(sorted(other_shapes)),
    )


def compared_bytes(a: Checkpoint, b: Checkpoint) -> int:
    """Return how many bytes `compare` will read."""
    return sum(a.tensors[key].nbytes + b.tensors[key].nbytes for key in _shared_keys(a, b)[0])


def _is_averaged(key: str, a: Checkpoint, b: Checkpoint) -> bool:
    return is_mergeable(key, a.tensors[key], a.architecture) and b.tensors[key].dtype.is_floating_point


def _shared_keys(a: Checkpoint, b: Checkpoint) -> tuple[list[str], list[str]]:
    """Return the keys whose shapes fit, and those whose shapes do not, both in A's order, which is that of its data."""
    shared = [key for key in a.tensors if key in b.tensors and place_of(key, a.architecture) != EMA]
    fitting = [key for key in shared if a.tensors[key].fits(b.tensors[key])]
    return fitting, [key for key in shared if not a.tensors[key].fits(b.tensors[key])]


def _only_in(one: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    keys = one.tensors.keys() - other.tensors.keys()
    return tuple(sorted(key for key in keys if place_of(key, one.architecture) != EMA))


def _require_one_architecture(a: Checkpoint, b: Checkpoint) -> None:
    if a.architecture != b.architecture:
        raise ParentsDifferError(
            f"files of different architecture: A ({a.path.name}) is {a.architecture}, "
            f"B ({b.path.name}) is {b.architecture}; compare models of one family only"
        )
