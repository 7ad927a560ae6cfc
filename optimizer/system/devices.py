"""Which device computes, and whether it can: a card must compute something before it is trusted."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Final

import torch

from basics.messages import first_line
from scorers.memory import lacks_memory

_log = logging.getLogger(__name__)

NO_CARD = ("not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs are available")  # in torch's words


INSTALL: Final = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl"
_NEW, _OLD = (f"{INSTALL}/{tag}" for tag in ("cu130", "cu126"))
REMEDIES: Final[Mapping[str, str]] = {  # torch's words -> what to do
    "not compiled with CUDA": "this torch has no CUDA: `{new}`, or for cards before GTX 16 and RTX 20 `{old}`",
    "no NVIDIA driver": "install NVIDIA's driver; a container must be started with GPUs",
    "No CUDA GPUs are available": "torch sees no card: look at `nvidia-smi` and CUDA_VISIBLE_DEVICES",
    "driver on your system is too old": "update NVIDIA's driver, or install a torch of an older CUDA: `{old}`",
    "no kernel image": "this torch is not made for this card: `{old}` for cards before GTX 16 and RTX 20, else `{new}`",
    "invalid device ordinal": "there is no card of this number: `nvidia-smi -L` lists them from 0",
    "from the 'MPS' backend": "mps is the device of Apple's machines",
}


def remedy_of(fault: str) -> str:
    """Return what to do about a device that cannot be used, for the end of a message.

    Args:
        fault: as `fault_of` returns it.
    """
    advice = next((advice for words, advice in REMEDIES.items() if words in fault), None)
    if advice is None:
        return "write auto, cpu or cuda"
    return f"{advice.format(new=_NEW, old=_OLD)}. Or write auto, which takes what works"


@cache
def fault_of(device: str) -> str | None:
    """Return in one line why a device cannot be used; None if it multiplies two matrices and returns the product.

    Nothing less is proof: torch lists cards that are too old for its kernels, and notices a driver that is too old only
    at the first use. A full card counts as working; the estimate of memory decides how much must be free.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say at length what is returned here in one line
            square = torch.ones(64, 64, dtype=torch.float16, device=device)
            (square @ square).cpu()
    except Exception as error:  # noqa: BLE001 - whatever a device's library says, or that there is none
        return None if lacks_memory(error) else first_line(error)
    return None


@cache
def usual_device() -> torch.device:
    """Return a CUDA device, else Apple's, else the CPU. If a card is there but not used, log once why."""
    fault = fault_of("cuda")
    if fault is None:
        return torch.device("cuda")
    if not any(words in fault for words in NO_CARD):
        _log.warning("the graphics card is not used, since it cannot compute: %s", fault)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
