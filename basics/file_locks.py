"""Locks of the operating system on files that this process has open: they go with the handle, and with the process.

Elsewhere than on Windows they are advisory, and cover the file (flock). On Windows they are mandatory, and cover bytes:
who holds one keeps all others from reading them. So it covers one byte far behind what any such file contains, as
SQLite's do. Locking a byte that is not there is allowed, and makes no file longer.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

LOCKED_BYTE: Final = 1 << 30

if sys.platform == "win32":
    import msvcrt

    # Without the first, Windows would change line ends. Links are rare there, and only administrators make them.
    PLAINLY: Final = os.O_BINARY | os.O_NOINHERIT
    AT_ONCE: Final = 0

    def take_lock(handle: int) -> None:
        """Take the lock of an open file without waiting.

        Raises:
            BlockingIOError: another handle has it.
            OSError: the file system knows no locks.
        """
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    # How to open a file of ours: what bears its name, not what a link leads to, and for this process alone.
    PLAINLY: Final = os.O_NOFOLLOW | os.O_CLOEXEC
    AT_ONCE: Final = os.O_NONBLOCK  # even if a pipe without a writer bears the name

    def take_lock(handle: int) -> None:
        """Take the lock of an open file without waiting.

        Raises:
            BlockingIOError: another handle has it.
            OSError: the file system knows no locks.
        """
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def content_of(handle: int, most: int) -> bytes:
    """Return what stands in an open file, up to `most` bytes."""
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, most)


def replace_content(handle: int, content: bytes) -> None:
    """Write `content` into an open file in place of what stands there."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, content)
