"""Which process a number belongs to, told without a clock: clocks are set, and numbers are given out again."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def process_identity(pid: int) -> str | None:
    """What no other process has, of this or another start of the machine; None where there is none, or only a zombie.

    On Linux the start of the machine and the ticks from there to the start of the process, see proc_pid_stat(5);
    elsewhere the time that the system noted.
    """
    boot = _boot_id()
    if boot is None:
        return _noted_start(pid)
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in {"Z", "X"} else f"{boot} {fields[18]}"


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
def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _noted_start(pid: int) -> str | None:
    import psutil

    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
