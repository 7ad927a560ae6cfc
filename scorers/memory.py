"""Recognition of out-of-memory errors on any device."""

from __future__ import annotations

import torch

# Messages of errors for which torch does not raise OutOfMemoryError: from the allocators of the CPU and of Apple's
# devices, and from CUDA libraries. cuBLAS, cuDNN and cuSOLVER allocate memory when they are first used, and report that
# they are not initialised if there is none. cuDNN finds no engine if none gets the workspace that it needs.
_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "unable to find an engine",
    "_status_alloc_failed",
    "_status_not_initialized",
)


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error was raised because memory does not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in message for part in _MESSAGES)
