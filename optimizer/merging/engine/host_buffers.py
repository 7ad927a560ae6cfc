"""Host memory from which sources are streamed: ordinary memory, page-locked ("pinned") for CUDA where possible.

PyTorch's own pinned memory is allocated in powers of two, which can take twice what is asked for. Here exactly the
requested bytes are registered with CUDA.
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

_log = logging.getLogger(__name__)


class HostBuffers:
    """One buffer of zeros for each source, pinned for as long as this object lives.

    Where CUDA refuses (Windows and WSL pin only part of the memory, containers may have a limit), the remaining buffers
    stay pageable: merges are the same, copies are slower. A warning is logged once.

    Args:
        sizes: source -> bytes.
        device: where the values will be copied to; memory is pinned only for CUDA.

    Raises:
        NoMemoryError: the system cannot allocate that much.
    """

    def __init__(self, sizes: Mapping[str, int], device: torch.device) -> None:
        self._buffers = {name: _zeros(size) for name, size in sizes.items()}
        pinned = _pinned(list(self._buffers.values()), device) if device.type == "cuda" else []
        self.pinned_bytes = sum(buffer.nbytes for buffer in pinned)
        if pinned:
            # The finalizer keeps the memory alive until it is unpinned. At process exit the system does both.
            weakref.finalize(self, _unpin, pinned, device).atexit = False

    def part(self, name: str, start: int, size: int, dtype: torch.dtype) -> Tensor:
        """Return a view of a source's buffer, [size] of `dtype`; it must not outlive this object.

        Args:
            start: offset in bytes, a multiple of the dtype's size.
        """
        return self._buffers[name][start : start + size * dtype.itemsize].view(dtype)


def _zeros(size: int) -> Tensor:
    """Allocate uint8 [size] in pages of its own, so that the storage begins at the address registered with CUDA.

    Raises:
        NoMemoryError: the system cannot allocate that much.
    """
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    try:
        if sys.platform == "win32":
            pages = mmap.mmap(-1, size)
        else:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise NoMemoryError(
            f"the system cannot allocate {size / 1e9:.1f} GB of memory for a parent's weights"
        ) from error
    return torch.frombuffer(pages, dtype=torch.uint8)  # keeps the pages alive


def _pinned(buffers: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Pin buffers in order until CUDA refuses one; return those that were pinned."""
    pinned: list[Tensor] = []
    for buffer in (buffer for buffer in buffers if buffer.nbytes):
        refusal = _pin(buffer, device)
        if refusal is not None:
            total, done = (sum(buffer.nbytes for buffer in group) / 1e9 for group in (buffers, pinned))
            _log.warning(
                "%.1f of the parents' %.1f GB could not be pinned (%s): merges take longer",
                total - done,
                total,
                refusal,
            )
            break
        pinned.append(buffer)
    return pinned


def _pin(buffer: Tensor, device: torch.device) -> str | None:
    """Pin a buffer; return CUDA's error message if it refuses, else None."""
    with torch.cuda.device(device):
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        code = runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)
        if int(code) == 0:
            return None
        _forget_error(device)
        return str(runtime.cudaGetErrorString(code))


def _forget_error(device: torch.device) -> None:
    """Clear CUDA's error of a failed call, which the check after the next kernel would otherwise report."""
    with suppress(RuntimeError):
        torch.ones(1, device=device)


def _unpin(pinned: Sequence[Tensor], device: torch.device) -> None:
    with suppress(RuntimeError):  # a device that has failed no longer copies
        torch.cuda.synchronize(device)  # copies may be in flight
    with torch.cuda.device(device):
        for buffer in pinned:
            torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())  # type: ignore[no-untyped-call]
