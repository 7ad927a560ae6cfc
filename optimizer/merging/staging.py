"""Source values on their way to a device: two fixed buffers, one filled while the device computes on the other.

On a CUDA device the copies have a stream of their own. Events keep the order: a computation waits for the copies into
its buffer, and the next copies into that buffer wait for the computation. Nothing is allocated on the way, so a host
that runs ahead of the device fills no more than the device's queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

BUFFERS = 2
BUFFER_BYTES = 32 << 20  # a copy of so much takes half a millisecond and more, a hundred times what ordering it costs
STAGING_BYTES = BUFFERS * BUFFER_BYTES
STEP = 256  # elements; every source begins at a multiple of it, so vector kernels see whole vectors


class Staging:
    """Two buffers on a device, used in turn.

    Args:
        buffer_bytes: size of one; at least `STEP` elements of every source that is staged at once.
    """

    def __init__(self, device: torch.device | str, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffers = [torch.empty(buffer_bytes, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
        self._order = _order_on(self._buffers)
        self._next = 0

    def chunk(self, dtypes: Sequence[torch.dtype]) -> int:
        """Elements of sources of these dtypes that fit into a buffer side by side, a multiple of `STEP`.

        Raises:
            ValueError: not even `STEP`.
        """
        chunk = self._buffers[0].nbytes // (sum(dtype.itemsize for dtype in dtypes) * STEP) * STEP
        if not chunk:
            raise ValueError(f"{len(dtypes)} sources do not fit into a buffer of {self._buffers[0].nbytes} bytes")
        return chunk

    @contextmanager
    def filled(self, sources: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The same values on the device, valid for what is computed inside the block.

        Args:
            sources: 1-D, of one length, at most `chunk` elements; host memory that nobody writes to.
        """
        turn, self._next = self._next, (self._next + 1) % BUFFERS
        there = _side_by_side(self._buffers[turn], sources)
        with self._order.copying(turn):
            for name, tensor in there.items():
                tensor.copy_(sources[name], non_blocking=True)
        with self._order.reading(turn):
            yield there


def _side_by_side(buffer: Tensor, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of a buffer, uint8 [bytes], with the sources' lengths and dtypes."""
    rooms = [-(-tensor.numel() // STEP) * STEP * tensor.itemsize for tensor in sources.values()]
    return {
        name: buffer[start : start + tensor.nbytes].view(tensor.dtype)
        for (name, tensor), start in zip(sources.items(), accumulate(rooms, initial=0), strict=False)
    }


class _Order(Protocol):
    """Keeps copies into a buffer and what is computed from it apart."""

    def copying(self, turn: int) -> AbstractContextManager[None]:
        """Around the copies: they wait until the buffer has been read; what follows the block waits for them."""
        ...

    def reading(self, turn: int) -> AbstractContextManager[None]:
        """Around what reads the buffer."""
        ...


class _OneQueue:
    """Copies and computations go one after the other anyway."""

    def copying(self, turn: int) -> AbstractContextManager[None]:  # noqa: ARG002 - all buffers are alike
        return nullcontext()

    def reading(self, turn: int) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


class _TwoStreams:
    """Copies on a CUDA stream of their own."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._device = buffers[0].device
        self._copies: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._copied, self._read = ([_event() for _ in buffers] for _ in range(2))
        # The memory may have been another tensor's a moment ago, and becomes another's again.
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
        finally:  # a merge that breaks off has read, too
            self._read[turn].record(torch.cuda.current_stream(self._device))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _order_on(buffers: Sequence[Tensor]) -> _Order:
    return _TwoStreams(buffers) if buffers[0].device.type == "cuda" else _OneQueue()
