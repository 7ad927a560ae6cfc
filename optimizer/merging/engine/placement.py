"""Where a merge's sources are kept between trials: on the device, in pinned host memory, or in their files."""

from __future__ import annotations

import logging
from enum import Enum

import torch

from optimizer.system.host_memory import available_host_bytes

_log = logging.getLogger(__name__)

GIB = 1 << 30
RESERVED = {"cuda": 2 * GIB, "cpu": 2 * GIB}  # left free at least, for rendering, scoring and libraries
HOST_SHARE = 0.7  # of the free host memory that may be pinned; the system needs the rest


class Placement(Enum):
    """The places where sources can be kept, fastest first."""

    DEVICE = "on the device"
    HOST = "in pinned host memory, streamed to the device at every merge"
    FILES = "in their files, read at every merge"


def choose_placement(device: torch.device, sources: int, live: int, working: int = 0) -> Placement:
    """Choose the fastest placement that fits the memory that is free now; log anything but the fastest.

    Args:
        sources: bytes of all parents.
        live: bytes of the live model, which always stays on the device.
        working: bytes that rendering takes; they are left free where they exceed `RESERVED`.
    """
    required = live + max(0, working - RESERVED.get(device.type, 0))
    placement = _fastest_fit(device.type, sources, required, device_free(device), available_host_bytes())
    if placement is not Placement.DEVICE:
        _log.warning(
            "the parents (%.1f GB) do not fit into the free memory of %s beside the live model (%.1f GB): they stay %s",
            sources / 1e9,
            device,
            live / 1e9,
            placement.value,
        )
    return placement


def _fastest_fit(kind: str, sources: int, live: int, free: int | None, host: int | None) -> Placement:
    """Choose by bytes: `free` on a device of this kind, `host` in host memory; None where that is unknown."""
    if free is None or sources + live + RESERVED.get(kind, 0) <= free:
        return Placement.DEVICE
    if kind == "cpu" or (host is not None and sources > HOST_SHARE * host):
        return Placement.FILES
    return Placement.HOST


def device_free(device: torch.device) -> int | None:
    """Return the free bytes of a device, PyTorch's cache included; None where it cannot be determined."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # used, to the driver
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return available_host_bytes() if device.type == "cpu" else None
