"""What happens when a file that is mapped into memory becomes shorter while it is read.

Parents, VAEs, LoRAs and weights of scorers are read through memory maps, so that reading a tensor copies nothing. Where
such a file is cut off (another program writes to it, a share fails), the system has no bytes to give and sends SIGBUS,
which ends a process without a word. Python's own handlers run too late for that: they wait until the instruction is
done, and it never is. So the handler is set with C's `signal`. It runs where the reading stopped, says what happened,
and ends the process. Reading costs what it did before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

MAPS: Final = Path("/proc/self/maps")  # of Linux


def report_cut_off_files(code: int) -> None:
    """From now on, end the process with one line and this exit code when a mapped file cannot be read any more."""
    if sys.platform == "win32":  # which sends no signal, but ends the process as well
        return
    set_handler = getattr(ctypes.CDLL(None), "signal", None)
    if set_handler is not None:
        set_handler.restype = ctypes.c_void_p
        set_handler(signal.SIGBUS, _handler(code))


@cache  # as long as C may call it, it must not be freed
def _handler(code: int) -> Any:
    first = threading.Lock()

    def end(_signal: int) -> NoReturn:
        while not first.acquire(blocking=False):  # another thread of the same kernel says it, and ends them all
            time.sleep(1)
        try:
            os.write(2, _message().encode(errors="backslashreplace"))
        finally:
            os._exit(code)  # there is nothing to go back to

    kind: Callable[..., Any] = ctypes.CFUNCTYPE(None, ctypes.c_int)
    return kind(end)


def _message() -> str:
    show_cursor = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    shorter = ", ".join(sorted(set(_shortened())))
    what = (
        f"{shorter} became shorter while it was read: another program writes to it, or its disk or share is failing"
        if shorter
        else "a file cannot be read any more: its disk or share is failing, or the memory in /dev/shm is used up"
    )
    return f"{show_cursor}error: {what}; put it right and start again: nothing that was stored is lost{os.linesep}"


def _shortened() -> Iterator[str]:
    """Yield the files of which this process has mapped more than they hold now."""
    if sys.platform != "linux":
        return
    for line in MAPS.read_text(errors="surrogateescape").splitlines():
        addresses, permissions, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/") and permissions.startswith("r"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            if int(offset, 16) + end - start > _whole_pages(path[0]):
                yield path[0]


def _whole_pages(path: str) -> float:
    """Return the bytes of the pages that a file has; infinity for one that is not there."""
    try:
        return -(-Path(path).stat().st_size // mmap.PAGESIZE) * mmap.PAGESIZE
    except OSError:
        return float("inf")
