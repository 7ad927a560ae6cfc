"""SQLite files opened to be read: nothing is written, not even the files by which SQLite's connections see each other.

Our databases are in WAL mode: while somebody has one open, what was stored last is in a file FILE-wal, and FILE-shm
tells where. A connection makes both where they are missing, even one that only reads, and fails where it cannot: see
https://www.sqlite.org/wal.html#readonly. So each connection looks first, and lives for one transaction: a worker may
begin at any moment.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import NullPool

from basics.stamps import stamp_of
from studies.records.patient_sqlite import PatientConnection
from studies.records.stored_json import parse_column


def reading_options(file: Path) -> dict[str, Any]:
    """Return the arguments by which SQLAlchemy's `create_engine` opens a file for reading."""
    connect = functools.partial(connect_to_read, file.absolute())
    return {"creator": connect, "poolclass": NullPool, "json_deserializer": parse_column}


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Open a SQLite file without writing anything anywhere near it.

    Raises:
        sqlite3.OperationalError: it cannot be opened.
        OSError: it has to be copied to be read, and cannot be.
    """
    real = file.resolve()  # SQLite, too, has the other files beside what a link leads to
    log, index = real.with_name(f"{real.name}-wal"), real.with_name(f"{real.name}-shm")
    if log.exists() and index.exists():
        return _connect(real, "mode=ro")
    if log.exists() and log.stat().st_size > 0:
        return _connect_to_copy(real, log)
    if _is_in_wal_mode(real):
        return _connect(real, "mode=ro&immutable=1", _Undisturbed)
    return _connect(real, "mode=ro")


def _is_in_wal_mode(file: Path) -> bool:
    """See https://www.sqlite.org/fileformat.html#file_format_version_numbers."""
    with file.open("rb") as handle:
        return handle.read(20)[18:] == b"\x02\x02"


def _connect(file: Path, how: str, kind: type[PatientConnection] = PatientConnection) -> sqlite3.Connection:
    url = f"file:{quote(os.fsencode(file))}?{how}"
    connection = sqlite3.connect(url, check_same_thread=False, uri=True, factory=kind)
    if isinstance(connection, _Undisturbed):
        connection.watch(file)
    return connection


def _connect_to_copy(file: Path, log: Path) -> sqlite3.Connection:
    """Open a copy: nobody has the file open, and what was stored last is in a log that has yet to be taken in."""
    with tempfile.TemporaryDirectory(prefix="mergetune-") as folder:
        copy = Path(folder) / "copy.db"
        shutil.copyfile(file, copy)
        shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
        connection = sqlite3.connect(copy, check_same_thread=False)  # nobody else knows it
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log, which then may go
        connection.execute("PRAGMA query_only=ON")
    return connection


class _Undisturbed(PatientConnection):
    """A connection that takes no lock and so must find out whether somebody has written meanwhile.

    What is written goes to a log of its own, until that is taken into the file: only then is the file changed.
    """

    def watch(self, file: Path) -> None:
        self._file: Path | None = file
        self._state = stamp_of(file)

    def commit(self) -> None:
        super().commit()
        self._require_unchanged()

    def rollback(self) -> None:
        super().rollback()
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        """Ask once: whatever ends the transaction comes here again when it gives the connection up.

        Raises:
            sqlite3.OperationalError: the file was changed since it was opened.
        """
        file, self._file = self._file, None
        if file is not None and stamp_of(file) != self._state:
            raise sqlite3.OperationalError(f"{file} was changed while it was read: run the command again")
