"""Telling an error that is raised for want of memory from others, on whatever device."""

from __future__ import annotations

import torch

# What is raised for want of memory without torch calling it so: by a CPU's and Apple's allocators, and by the CUDA
# libraries. cuBLAS, cuDNN and cuSOLVER take memory of their own when they are first used, and say that they are not
# initialised where there is none; cuDNN finds no engine where none has the workspace that it needs.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "unable to find an engine",
    "_status_alloc_failed",
    "_status_not_initialized",
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is raised for want of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in told for word in _WORDS)
