"""How much more host memory a process can take: by the machine, its container, and its own address space."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
CGROUP_MOUNT = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 for no limit


def available_host_bytes() -> int:
    """Return how many bytes this process can take without swapping, and without being killed for them."""
    rooms = (psutil.virtual_memory().available, cgroup_room(), address_room())
    return max(0, min(room for room in rooms if room is not None))


def cgroup_room(listing: Path = CGROUP_OF_PROCESS, mount: Path = CGROUP_MOUNT) -> int | None:
    """Return how many bytes the memory limits of a process's control groups leave; None without a limit.

    Both versions of control groups are read. Pages of files count as free: the kernel drops them before it kills. See
    cgroups(7), and memory.stat in the kernel's admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.

    Args:
        listing: the groups of a process, as `/proc/PID/cgroup`.
        mount: where the groups' files are.
    """
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    rooms = [room for line in lines for room in _rooms_of(line, mount)]
    return min(rooms, default=None)


def _rooms_of(line: str, mount: Path) -> Iterator[int]:
    """Yield what one line of the listing, `hierarchy:controllers:path`, leaves at each level up to the mount."""
    _, controllers, path = line.split(":", maxsplit=2)
    if not controllers:
        roots, names = (mount, mount / "unified"), ("memory.max", "memory.current", "")
    elif "memory" in controllers.split(","):
        roots, names = (
            (mount / "memory", mount / controllers),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        )
    else:
        return
    for root in roots:
        folder = root / path.strip("/")  # within a container it may not be there: then the mount is the container's own
        while True:
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == root:
                break
            folder = folder.parent


def _room(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    try:
        most, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
        if most == "max" or int(most) >= UNLIMITED:
            return None
        rows = (line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        files = {f"{prefix}active_file", f"{prefix}inactive_file"}
        return int(most) - int(taken) + sum(int(size) for name, size in rows if name in files)
    except (OSError, ValueError):
        return None


def address_room() -> int | None:
    """Return how many bytes `ulimit -v` leaves; None without a limit, or on Windows, which has none."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit - int(psutil.Process().memory_info().vms)
