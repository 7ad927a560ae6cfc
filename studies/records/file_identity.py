"""Whether a database's path still leads to the file that was opened.

A file that is removed or moved stays open for those who have it open: what they write goes where nobody will look.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

from studies.errors import DatabaseAwayError, DatabaseReplacedError
from studies.system.advice import advised
from studies.system.database_url import sqlite_url


class OpenedFile:
    """A SQLite file as it was when it was opened: its device and inode.

    The inode is kept from being used again, by a handle that only names it (O_PATH, where there is one). Any other
    handle would drop SQLite's own locks when it is closed: see section 2.2 of https://www.sqlite.org/howtocorrupt.html.

    Args:
        file: exists.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity = _identity(file)
        if sys.platform == "linux":
            weakref.finalize(self, os.close, os.open(file, os.O_PATH | os.O_CLOEXEC))

    def require_same(self) -> None:
        """Refuse to go on where the path leads elsewhere by now.

        Raises:
            DatabaseReplacedError: it does, or to nothing.
            DatabaseAwayError: it cannot be known now.
        """
        try:
            found = _identity(self._file)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            raise DatabaseAwayError(f"the study database {self._file} cannot be looked at: {error.strerror}") from error
        if found != self._identity:
            happened = "was removed or moved" if found is None else "was replaced by another file"
            command = advised("study resume STUDY", sqlite_url(self._file.absolute()))
            raise DatabaseReplacedError(
                f"the study database {self._file} {happened} while it was in use: nothing more is written; put the "
                f"file back, or restore a backup, and go on with `{command}`"
            )


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino
