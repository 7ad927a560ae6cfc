"""SQLite connections that wait for another process's write in slices, so that a signal can end the wait.

SQLite's own busy handler sleeps inside the library, where Python hears of no signal.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from studies.system.waiting import SLICE_SECONDS, Wait

SQLITE_WAIT_SECONDS: Final = 60.0  # for another process's write

T = TypeVar("T")


class PatientConnection(sqlite3.Connection):
    """A connection whose statements wait for other processes, for SQLITE_WAIT_SECONDS."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "timeout": SLICE_SECONDS})

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or PatientCursor)

    def commit(self) -> None:
        _patiently(super().commit)


class PatientCursor(sqlite3.Cursor):
    """A cursor of such a connection."""

    def execute(self, sql: str, parameters: Any = (), /) -> PatientCursor:
        return _patiently(lambda: super(PatientCursor, self).execute(sql, parameters))

    def executemany(self, sql: str, parameters: Any, /) -> PatientCursor:
        rows = list(parameters)
        return _patiently(lambda: super(PatientCursor, self).executemany(sql, rows))


def _patiently(action: Callable[[], T]) -> T:
    """Return what `action` returns, which is done again as long as another process writes.

    Raises:
        sqlite3.OperationalError: the other process does not end.
        WaitEndedError: this process is asked to stop.
    """
    wait = Wait(SQLITE_WAIT_SECONDS)
    while True:
        began = time.monotonic()
        try:
            return action()
        except sqlite3.OperationalError as error:
            # SQLite does not wait where that would help nobody: two who have read, and both want to write.
            waited = time.monotonic() - began > SLICE_SECONDS / 2
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # also while another recovers what was killed
            if not (busy and waited and wait.goes_on(lambda: "another process that is writing to the study database")):
                raise
