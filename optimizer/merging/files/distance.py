r"""How far apart two checkpoints are: per tensor, per place, over all.

Notation: a and b are the same tensor of files A and B, d = b - a, ||.|| the Euclidean norm over all elements.

    relative distance    ||d|| / ||a||
    cosine               <d, a> / (||d|| ||a||)

Several tensors count as one long vector, so a place's distance is sqrt(sum ||d||^2) / sqrt(sum ||a||^2): the mean of
its tensors' distances would let a bias of 320 numbers weigh as much as a matrix of 13 million.

All sums are float64. They are added with `math.fsum`, which rounds once, so the order in which tensors are read
changes no bit of the result.
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

# 128 KB of float64 at a time stay in a core's cache, and are too few for torch to divide among threads: waiting for
# those at every piece takes far longer than the sums where other programs keep the cores busy.
CHUNK_ELEMENTS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """What is known of one tensor pair, or of several together: see `together`."""

    tensors: int
    size: int  # elements
    identical: int  # tensors whose every value is the same in both files, whatever they are stored as
    squared_difference: float  # ||d||^2; NaN or infinite if either file has such values
    squared_norm: float  # ||a||^2
    inner: float  # <d, a>

    @property
    def finite(self) -> bool:
        """False where one of the files holds NaN or Inf: nothing can be said of the distance then."""
        return math.isfinite(self.squared_difference) and math.isfinite(self.squared_norm)

    @property
    def relative(self) -> float:
        """||d|| / ||a||: 0 for equal values, inf where A is all zeros and B is not, NaN where not `finite`."""
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

        Near 0, as in any training, B went its own way; near -1 or 1 it is A made smaller or larger.
        """
        norms = math.sqrt(self.squared_difference) * math.sqrt(self.squared_norm) if self.finite else 0.0
        return max(-1.0, min(1.0, self.inner / norms)) if norms > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDistance:
    """One tensor that both files have, in shapes that fit."""

    key: str
    place: str
    distance: Distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two files of one architecture. Every key of either is in exactly one of the fields; EMA copies are in none."""

    tensors: tuple[TensorDistance, ...]  # what a merge averages, in A's order
    unaveraged: tuple[str, ...]  # integers, schedules and markers that are equal; a merge keeps A's. Sorted, like ...
    unaveraged_different: tuple[str, ...]  # ... those that are not equal
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    other_shapes: tuple[str, ...]  # keys whose shapes differ by more than ones at the end

    def by_place(self) -> dict[str, Distance]:
        """Place -> its tensors together, for the places that have any, in the order they appear in A."""
        groups: dict[str, list[Distance]] = {}
        for row in self.tensors:
            groups.setdefault(row.place, []).append(row.distance)
        return {place: together(rows) for place, rows in groups.items()}

    def most_different(self, count: int) -> tuple[TensorDistance, ...]:
        """The tensors with the largest relative distances, largest first; what is not finite comes before all."""
        return tuple(sorted(self.tensors, key=_remoteness)[:count])


def _remoteness(row: TensorDistance) -> tuple[float, str]:
    return (-row.distance.relative if row.distance.finite else -math.inf, row.key)


def tensor_distance(a: Tensor, b: Tensor) -> Distance:
    """Distance of two floating tensors of one size and any dtypes, on the CPU; never raises for NaN or Inf.

    Works through both in pieces of `CHUNK_ELEMENTS`, so its memory does not grow with them.
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
    """Exact for every dtype; narrow ones by way of float32, which is the faster conversion."""
    return (part.float() if part.dtype.itemsize < 4 else part).to(torch.float64)


def _inner(x: Tensor, y: Tensor) -> float:
    """<x, y> of one piece. Not `dot`: BLAS has its own threads, and rounds by how its input is aligned in memory."""
    return float((x * y).sum())


def together(distances: Iterable[Distance]) -> Distance:
    """Several tensors as one long vector; of none, everything is 0."""
    rows = tuple(distances)
    return Distance(
        tensors=sum(row.tensors for row in rows),
        size=sum(row.size for row in rows),
        identical=sum(row.identical for row in rows),
        squared_difference=_exact_sum([row.squared_difference for row in rows]),
        squared_norm=_exact_sum([row.squared_norm for row in rows]),
        inner=_exact_sum([row.inner for row in rows]),
    )


def _exact_sum(values: list[float]) -> float:
    """`math.fsum`, which refuses opposite infinities."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def compare(a: Checkpoint, b: Checkpoint, progress: Callable[[int], None] | None = None) -> Comparison:
    """Read both files once, one tensor pair at a time.

    Args:
        progress: called with the bytes of each pair that was compared; they sum up to `compared_bytes`.

    Raises:
        CheckpointError: one of them is of no known family.
        ParentsDifferError: they are of different architectures.
    """
    _require_one_architecture(a, b)
    pairs, other_shapes = _shared_keys(a, b)
    rows: list[TensorDistance] = []
    equal: list[str] = []
    different: list[str] = []
    for key in pairs:
        first, second = a.tensor(key), b.tensor(key)
        if _is_averaged(key, a, b):
            place = place_of(key, a.architecture)
            rows.append(TensorDistance(key=key, place=place, distance=tensor_distance(first, second)))
        else:
            same = bool((first.double() == second.double().view(first.shape)).all())
            (equal if same else different).append(key)
        if progress is not None:
            progress(a.tensors[key].nbytes + b.tensors[key].nbytes)
    return Comparison(
        tensors=tuple(rows),
        unaveraged=tuple(sorted(equal)),
        unaveraged_different=tuple(sorted(different)),
        only_in_a=_only_in(a, b),
        only_in_b=_only_in(b, a),
        other_shapes=tuple(sorted(other_shapes)),
    )


def compared_bytes(a: Checkpoint, b: Checkpoint) -> int:
    """What `compare` will read."""
    return sum(a.tensors[key].nbytes + b.tensors[key].nbytes for key in _shared_keys(a, b)[0])


def _is_averaged(key: str, a: Checkpoint, b: Checkpoint) -> bool:
    return is_mergeable(key, a.tensors[key], a.architecture) and b.tensors[key].dtype.is_floating_point


def _shared_keys(a: Checkpoint, b: Checkpoint) -> tuple[list[str], list[str]]:
    """(keys whose shapes fit, keys whose shapes do not) in A's order, which is the order of its bytes."""
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
