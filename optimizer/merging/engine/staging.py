"""Double buffering of source values for a device: one buffer is filled while the device computes on the other.

On a CUDA device the copies run on a stream of their own. Events keep the order: a computation waits for the copies into
its buffer, and the next copies into that buffer wait for the computation. Nothing is allocated per copy, so a host that
runs ahead of the device fills only the device's queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

BUFFERS = 2
BUFFER_BYTES = 32 << 20  # copying that much takes over half a millisecond, a hundred times what the events cost
STAGING_BYTES = BUFFERS * BUFFER_BYTES
STEP = 256  # elements; every source begins at a multiple of it, so that vector kernels read whole vectors


class Staging:
    """Two buffers on a device, used in turn.

    Args:
        buffer_bytes: size of one buffer; at least `STEP` elements of every source that is staged at once.
    """

    def __init__(self, device: torch.device | str, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffers = [torch.empty(buffer_bytes, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
        self._order = _order_on(self._buffers)
        self._next = 0

    def chunk(self, dtypes: Sequence[torch.dtype]) -> int:
        """Return how many elements of each of these sources fit side by side into a buffer: a multiple of `STEP`.

        Args:
            dtypes: one for each source.

        Raises:
            ValueError: fewer than `STEP` fit.
        """
        chunk = self._buffers[0].nbytes // (sum(dtype.itemsize for dtype in dtypes) * STEP) * STEP
        if not chunk:
            raise ValueError(f"{len(dtypes)} sources do not fit into a buffer of {self._buffers[0].nbytes} bytes")
        return chunk

    @contextmanager
    def filled(self, sources: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Copy sources to the device; the copies are valid for what is computed inside the block.

        Args:
            sources: 1-D, of one length, at most `chunk` elements; host memory that nobody writes to.
        """
        turn, self._next = self._next, (self._next + 1) % BUFFERS
        on_device = _side_by_side(self._buffers[turn], sources)
        with self._order.copying(turn):
            for name, tensor in on_device.items():
                tensor.copy_(sources[name], non_blocking=True)
        with self._order.reading(turn):
            yield on_device


def _side_by_side(buffer: Tensor, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return consecutive views of a buffer, uint8 [bytes], with the sources' lengths and dtypes."""
    padded_bytes = [-(-tensor.numel() // STEP) * STEP * tensor.itemsize for tensor in sources.values()]
    return {
        name: buffer[start : start + tensor.nbytes].view(tensor.dtype)
        for (name, tensor), start in zip(sources.items(), accumulate(padded_bytes, initial=0), strict=False)
    }


class _Order(Protocol):
    """Synchronisation between copies into a buffer and computations that read it."""

    def copying(self, turn: int) -> AbstractContextManager[None]:
        """Enclose copies into a buffer: they wait until it has been read, and what follows the block waits for them."""
        ...

    def reading(self, turn: int) -> AbstractContextManager[None]:
        """Enclose computations that read a buffer."""
        ...


class _OneQueue:
    """Order on a device that runs copies and computations one after the other anyway."""

    def copying(self, turn: int) -> AbstractContextManager[None]:  # noqa: ARG002 - the buffer makes no difference
        return nullcontext()

    def reading(self, turn: int) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


class _TwoStreams:
    """Order with the copies on a CUDA stream of their own."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._device = buffers[0].device
        self._copies: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._copied, self._read = ([_event() for _ in buffers] for _ in range(2))
        # The allocator reuses memory: pending work may still use what the buffers occupy, and later tensors will.
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        for buffer in buffers:
            buffer.record_stream(self._copies)

    @contextmanager
    def copying(self, turn: int) -> Iterator[None]:
        self._copies.wait_event(self._read[turn])  # does nothing before the first reading
        with torch.cuda.stream(self._copies):
            yield
        self._copied[turn].record(self._copies)
        torch.cuda.current_stream(self._device).wait_event(self._copied[turn])

    @contextmanager
    def reading(self, turn: int) -> Iterator[None]:
        try:
            yield
        finally:  # a merge that fails may have read the buffer, too
            self._read[turn].record(torch.cuda.current_stream(self._device))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _order_on(buffers: Sequence[Tensor]) -> _Order:
    return _TwoStreams(buffers) if buffers[0].device.type == "cuda" else _OneQueue()
