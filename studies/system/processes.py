"""Which process a number belongs to, told without a clock: clocks are set, and numbers are given out again."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def process_identity(pid: int) -> str | None:
    """What no other process has, of this or another start of the machine; None where there is none, or only a zombie.

    On Linux the start of the machine, its space of process numbers (containers have their own), and the ticks from that
    start to the one of the process, see proc_pid_stat(5); elsewhere the time that the system noted.
    """
    space = _number_space()
    if space is None:
        return _noted_start(pid)
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in {"Z", "X"} else f"{space} {fields[18]}"


def shares_processes(identity: str) -> bool:
    """Whether a process of this identity is, or was, one that this process can see by its number."""
    space = _number_space()
    return space is None or identity.startswith(f"{space} ")


def is_running(pid: int, identity: str | None) -> bool:
    """Whether the process that had this identity still runs; where none is known, whether any has its number."""
    return process_exists(pid) if identity is None else process_identity(pid) == identity


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _number_space() -> str | None:
    """What numbers of processes mean: this start of this machine, or of a container on it; None where nothing tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot} {space}"


def _noted_start(pid: int) -> str | None:
    import psutil

    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
