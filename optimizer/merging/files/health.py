"""Search for NaN and infinity in checkpoints: one NaN in a U-Net makes every image black."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from optimizer.merging.files.checkpoint import Checkpoint
from search_spaces.blocks import place_of

CHUNK_ELEMENTS = 1 << 22  # limits the float16 copy of 8-bit floats to 8 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFinite:
    """The NaN and infinite elements of one place."""

    nan: int  # elements
    infinite: int  # elements
    tensors: int  # with any such elements
    first_key: str  # in the order of the file


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor of any shape and dtype holds neither NaN nor infinity; one pass over it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.half()  # exact; aminmax does not support 8-bit floats
    low, high = tensor.aminmax()  # both NaN if any element is; many times faster than isfinite
    return bool(low.isfinite() & high.isfinite())


def not_finite(checkpoint: Checkpoint, progress: Callable[[int], None] | None = None) -> dict[str, NotFinite]:
    """Return the NaN and infinite elements of each place that has any, in the order of the file.

    Every tensor is read once.

    Args:
        progress: called with the bytes of each tensor that was read.

    Raises:
        CheckpointError: it is of no known family.
    """
    by_place: dict[str, NotFinite] = {}
    for key, info in checkpoint.tensors.items():
        nan, infinite = count_not_finite(checkpoint.tensor(key)) if info.dtype.is_floating_point else (0, 0)
        if nan or infinite:
            place = place_of(key, checkpoint.architecture)
            before = by_place.get(place, NotFinite(nan=0, infinite=0, tensors=0, first_key=key))
            by_place[place] = NotFinite(
                nan=before.nan + nan,
                infinite=before.infinite + infinite,
                tensors=before.tensors + 1,
                first_key=before.first_key,
            )
        if progress is not None:
            progress(info.nbytes)
    return by_place


def count_not_finite(tensor: Tensor) -> tuple[int, int]:
    """Count the (NaN, infinite) elements of a floating tensor of any shape and dtype."""
    nan = infinite = 0
    flat = tensor.flatten()
    for start in range(0, flat.numel(), CHUNK_ELEMENTS):
        part = flat[start : start + CHUNK_ELEMENTS]
        if is_finite(part):
            continue
        values = part.half() if part.dtype.itemsize == 1 else part  # exact; 8-bit floats have no arithmetic
        nan += int(values.isnan().sum())
        infinite += int(values.isinf().sum())
    return nan, infinite
