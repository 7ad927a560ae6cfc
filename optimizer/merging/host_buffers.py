"""Host memory that sources are streamed from: ordinary memory, page-locked ("pinned") for CUDA where that is allowed.

torch's own pinned memory comes in blocks of powers of two, which take up to twice what is asked for. Here exactly what
is asked for is registered with CUDA.
"""

from __future__ import annotations

import logging
import mmap
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from optimizer.errors import NoMemoryError

LOG = logging.getLogger(__name__)


class HostBuffers:
    """One buffer of zeros for each source, pinned for as long as this object lives.

    Where CUDA refuses (Windows and WSL pin only a part of the memory, containers may have a limit), the rest stays
    pageable: the same merges, with slower copies. That is said in the log once.

    Args:
        sizes: source -> bytes.
        device: where the values will be copied to; memory is pinned only for CUDA.

    Raises:
        NoMemoryError: the system does not give so much.
    """

    def __init__(self, sizes: Mapping[str, int], device: torch.device) -> None:
        self._buffers = {name: _zeros(size) for name, size in sizes.items()}
        pinned = _pinned(list(self._buffers.values()), device) if device.type == "cuda" else []
        self.pinned_bytes = sum(buffer.nbytes for buffer in pinned)
        if pinned:
            # It holds the memory until that is unpinned. At the end of the process the system does both.
            weakref.finalize(self, _unpin, pinned, device).atexit = False

    def part(self, name: str, start: int, size: int, dtype: torch.dtype) -> Tensor:
        """A view of a source's buffer, [size] of `dtype`; it must not be used for longer than this object lives.

        Args:
            start: bytes before it, a multiple of the dtype's size.
        """
        return self._buffers[name][start : start + size * dtype.itemsize].view(dtype)


def _zeros(size: int) -> Tensor:
    """Uint8 [size] on pages of its own, straight from the system; so the storage begins where CUDA is told it does."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    try:
        if sys.platform == "win32":
            pages = mmap.mmap(-1, size)
        else:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise NoMemoryError(f"the system gives no {size / 1e9:.1f} GB of memory for a parent's weights") from error
    return torch.frombuffer(pages, dtype=torch.uint8)  # keeps the pages for as long as it lives


def _pinned(buffers: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Pin one buffer after the other; those that CUDA agreed to, up to the first that it refused."""
    pinned: list[Tensor] = []
    for buffer in (buffer for buffer in buffers if buffer.nbytes):
        refusal = _pin(buffer, device)
        if refusal is not None:
            total, done = (sum(row.nbytes for row in rows) / 1e9 for rows in (buffers, pinned))
            LOG.warning(
                "%.1f of the parents' %.1f GB could not be pinned (%s): merges take longer",
                total - done,
                total,
                refusal,
            )
            break
        pinned.append(buffer)
    return pinned


def _pin(buffer: Tensor, device: torch.device) -> str | None:
    """Pin a buffer; why not, where CUDA refuses."""
    with torch.cuda.device(device):
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        code = runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)
        if int(code) == 0:
            return None
        _forget_error(device)
        return str(runtime.cudaGetErrorString(code))


def _forget_error(device: torch.device) -> None:
    """CUDA keeps a failed call's error for whoever asks next, which would be the check after some kernel: ask now."""
    with suppress(RuntimeError):
        torch.ones(1, device=device)


def _unpin(pinned: Sequence[Tensor], device: torch.device) -> None:
    with suppress(RuntimeError):  # a device that has failed copies nothing any more
        torch.cuda.synchronize(device)  # copies may be under way
    with torch.cuda.device(device):
        for buffer in pinned:
            torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())  # type: ignore[no-untyped-call]
