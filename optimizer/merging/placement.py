"""Where a merge's sources stay between trials: on the device, in pinned host memory, or in their files."""

from __future__ import annotations

import logging
from enum import Enum

import torch

from optimizer.host_memory import available_host_bytes

LOG = logging.getLogger(__name__)

GIB = 1 << 30
RESERVED = {"cuda": 2 * GIB, "cpu": 2 * GIB}  # at least, for rendering, scoring and what libraries take for themselves
HOST_SHARE = 0.7  # of the free host memory that may be pinned; the system needs the rest


class Placement(Enum):
    """Fastest first."""

    DEVICE = "on the device"
    HOST = "in pinned host memory, streamed to the device at every merge"
    FILES = "in their files, read at every merge"


def choose_placement(device: torch.device, sources: int, live: int, working: int = 0) -> Placement:
    """By the memory that is free now; anything but the fastest is said in the log.

    Args:
        sources: bytes of all parents.
        live: bytes of the live model, which always stays on the device.
        working: bytes that rendering takes, to be left free where they are more than what always is.
    """
    beside = live + max(0, working - RESERVED.get(device.type, 0))
    placement = _fitting(device.type, sources, beside, device_free(device), available_host_bytes())
    if placement is not Placement.DEVICE:
        LOG.warning(
            "the parents (%.1f GB) do not fit into %s's free memory beside the live model (%.1f GB): they stay %s",
            sources / 1e9,
            device,
            live / 1e9,
            placement.value,
        )
    return placement


def _fitting(kind: str, sources: int, live: int, free: int | None, host: int | None) -> Placement:
    if free is None or sources + live + RESERVED.get(kind, 0) <= free:
        return Placement.DEVICE
    if kind == "cpu" or (host is not None and sources > HOST_SHARE * host):
        return Placement.FILES
    return Placement.HOST


def device_free(device: torch.device) -> int | None:
    """Free bytes on a device, with those that torch keeps for its next tensors; None where nobody can tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # the driver calls it used
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return available_host_bytes() if device.type == "cpu" else None
