"""The identity of processes, without relying on a clock: clocks may be changed, and process numbers are reused."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path


def process_identity(pid: int) -> str | None:
    """Return a text that identifies a process across reboots; None if no process runs there, or only a zombie.

    On Linux it consists of the boot id, the pid namespace (containers have their own), and the process's start in
    ticks since boot, see proc_pid_stat(5); elsewhere it is the start time that the system recorded.
    """
    space = _pid_space()
    if space is None:
        return _start_time(pid)
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else f"{space} {fields[18]}"


def shares_processes(identity: str) -> bool:
    """Return whether a process of this identity is, or was, visible to this process by its number."""
    space = _pid_space()
    return space is None or identity.startswith(f"{space} ")


def is_running(pid: int, identity: str | None) -> bool:
    """Return whether a process still runs.

    Args:
        identity: of the process when it was recorded; None if unknown: then any process of its number counts.
    """
    return process_exists(pid) if identity is None else process_identity(pid) == identity


def process_exists(pid: int) -> bool:
    """Return whether any process has this number."""
    if sys.platform == "win32":  # where `os.kill` would end it
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _pid_space() -> str | None:
    """Return the boot id and pid namespace, within which process numbers have a meaning; None if not on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot} {space}"


def _start_time(pid: int) -> str | None:
    import psutil

    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
