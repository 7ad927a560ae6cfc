"""Which device computes, and whether it can: a card is asked to compute something before it is trusted."""

from __future__ import annotations

import logging
import warnings
from functools import cache

import torch

from scorers.memory import lacks_memory

LOG = logging.getLogger(__name__)

NO_CARD = ("not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs are available")  # in torch's words


@cache
def fault_of(device: str) -> str | None:
    """Why a device cannot be used, in one line; None for one that multiplies matrices and gives the product back.

    Only that tells: torch sees cards that are too old for its kernels, and learns of a driver that is too old from the
    first use. A card that is full works; how much it must have free is the estimate's business.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is told in one line here
            square = torch.ones(64, 64, dtype=torch.float16, device=device)
            (square @ square).cpu()
    except (RuntimeError, AssertionError) as error:
        return None if lacks_memory(error) else str(error).strip().splitlines()[0]
    return None


@cache
def usual_device() -> torch.device:
    """A CUDA device, else Apple's, else the CPU; why a card that is there is not used is said in the log, once."""
    fault = fault_of("cuda")
    if fault is None:
        return torch.device("cuda")
    if not any(words in fault for words in NO_CARD):
        LOG.warning("the graphics card is not used, since it cannot compute: %s", fault)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
