"""Where a merge's sources stay between trials: on the device, in pinned host memory, or in their files."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path

import torch

LOG = logging.getLogger(__name__)

GIB = 1 << 30
RESERVED = {"cuda": 4 * GIB, "cpu": 2 * GIB}  # for rendering and scoring: activations, autoencoder, scorers
HOST_SHARE = 0.7  # of the free host memory that may be pinned; the system needs the rest


class Placement(Enum):
    """Fastest first."""

    DEVICE = "on the device"
    HOST = "in pinned host memory, streamed to the device at every merge"
    FILES = "in their files, read at every merge"


def choose_placement(device: torch.device, sources: int, live: int) -> Placement:
    """By the memory that is free now; anything but the fastest is said in the log.

    Args:
        sources: bytes of all parents.
        live: bytes of the live model, which always stays on the device.
    """
    placement = _fitting(device.type, sources, live, device_free(device), host_free())
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
    """Free bytes on a device; None where nobody can tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host_free() if device.type == "cpu" else None


def host_free() -> int | None:
    """Bytes that programs can still take without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None
