"""The lock of a study database: one process at a time takes a trial, makes a study, or looks through everything.

A database file has a lock of the operating system beside it, which goes with the process that holds it. A holder that
is stopped (Ctrl-Z, `docker pause`) keeps it; whoever waits says for whom, and gives up in the end.

On a server the lock is an advisory lock of one session. Its holder gives a sign of life every few seconds; the server
ends a session that is silent, and the lock goes to the next. When the old holder wakes up, it may be about to write. So
each of its transactions takes a second lock, shared, before it is committed, and then looks whether its session lives.
A new holder waits until nobody has that second lock. A transaction of the old one is stored before, or not at all.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from basics.file_locks import content_of, replace_content, take_lock
from basics.files import open_lock_file
from studies.errors import DatabaseError, DatabaseLockedError, LockLostError
from studies.records.refusals import sqlstate
from studies.system.advice import advised
from studies.system.database_url import sqlite_url
from studies.system.processes import is_running, process_identity
from studies.system.waiting import SLICE_SECONDS, Wait, pause

# libpq's names: a machine that vanished without a word is noticed in a minute, not after the hours that Linux takes.
KEEPALIVES: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}  # seconds, seconds, times
SILENCE_SECONDS: Final = 30  # after which a server ends a session in the midst of a transaction
ROW_WAIT_SECONDS: Final = 10  # for a row that another session is writing
TURN_SECONDS: Final = 2  # of waiting inside the server, between two looks at whether to go on
SIGN_SECONDS: Final = 5.0  # between two signs of life of the holder
LOCK: Final = "hashtext('mergetune')"
WRITES: Final = "hashtext('mergetune writes')"
LOCK_NOT_AVAILABLE: Final = "55P03"
HOLDER: Final = sa.text(f"""
    SELECT application_name, EXTRACT(EPOCH FROM clock_timestamp() - xact_start) AS seconds
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND datname = current_database()
    AND ((classid::bigint << 32) | objid::bigint) = {LOCK}::bigint
""")  # noqa: S608 - a constant

_held: ContextVar[ServerLock | None] = ContextVar("held", default=None)  # by this thread


# ------------------------------------------------------------------------------------------- files


@contextmanager
def sqlite_lock(file: Path, *, silently: bool = False) -> Iterator[None]:
    """Hold a lock between the processes of one machine.

    Args:
        silently: whether to write nothing, not even who holds it.

    Raises:
        DatabaseLockedError: another process keeps it.
        WaitEndedError: this process is asked to stop.
    """
    handle = _taken(file)
    try:
        if not silently:
            _name_holder(handle)
        yield
    finally:
        if not silently:
            _forget_holder(handle)
        os.close(handle)  # which gives it back


def lock_file(file: Path) -> Path:
    """Return the file of a database file's lock; whatever link leads to the database, there is one."""
    real = file.resolve()
    return real.with_name(f"{real.name}.lock")


def _taken(file: Path) -> int:
    """Open the lock's file and take the lock; returns the handle. A file that was removed meanwhile is no lock."""
    lock, wait = lock_file(file), Wait()
    while True:
        handle = open_lock_file(lock)
        try:
            _lock_alone(handle, file, wait)
            if _is_at(handle, lock):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_alone(handle: int, file: Path, wait: Wait) -> None:
    while True:
        try:
            take_lock(handle)
        except BlockingIOError:
            if not wait.goes_on(lambda: f"the lock of {file}, which {_file_holder(handle)}"):
                raise DatabaseLockedError(
                    _too_long(str(file), _file_holder(handle), sqlite_url(file.absolute()))
                ) from None
            pause(min(SLICE_SECONDS, 0.002 + wait.seconds / 4))
        else:
            return


def _is_at(handle: int, lock: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), lock.stat())
    return False


def _name_holder(handle: int) -> None:
    """Write into the lock's file who holds it, for those who wait.

    One who may only read it stays unnamed, and so does the holder of a file with other names: it is a copy's as well
    (`cp --link`), or somebody else's.
    """
    if os.fstat(handle).st_nlink > 1:
        return
    who = {"host": socket.gethostname(), "pid": os.getpid(), "process": process_identity(os.getpid())}
    with suppress(OSError):  # read-only, or the disk is full
        replace_content(handle, json.dumps(who | {"since": time.time()}).encode())


def _forget_holder(handle: int) -> None:
    if os.fstat(handle).st_nlink > 1:
        return
    with suppress(OSError):
        os.ftruncate(handle, 0)


def _file_holder(handle: int) -> str:
    """Return in words who holds a lock's file, as far as it says so."""
    try:
        who = json.loads(content_of(handle, 4096))
        if is_running(who["pid"], who["process"]):
            return _in_words(f"process {who['pid']} on {who['host']}", time.time() - who["since"])
    except (OSError, ValueError, KeyError, TypeError):  # empty, or somebody is writing it
        pass
    return "another process holds"


def _in_words(who: str, seconds: float) -> str:
    begun = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
    return f"{who} has held for {seconds:.0f} seconds (since {begun})"


def _too_long(what: str, holder: str, url: str) -> str:
    return (
        f"the lock of {what} is not free: {holder}. If that process is stopped (Ctrl-Z, docker pause), let it go on or "
        f"end it; nothing is lost, go on with `{advised('study resume STUDY', url)}`"
    )


# ----------------------------------------------------------------------------------------- servers


class ServerLock:
    """A server's lock, held by one session that gives signs of life while the block runs.

    Args:
        connection: of the session that has the lock.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._alone = connection, threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, name="lock", daemon=True)
        self._thread.start()

    def require_held(self) -> None:
        """Give a sign of life.

        Raises:
            LockLostError: the session has ended, and the lock may be another's.
        """
        try:
            with self._alone:
                self._connection.execute(sa.text("SELECT 1"))
        except SQLAlchemyError as error:
            raise LockLostError(
                f"this process was silent for more than {SILENCE_SECONDS} seconds while it held the lock of the study "
                "database, which another may have by now: nothing more was written; run the command again"
            ) from error

    def release(self) -> None:
        """Give the lock back, if its session is alive."""
        self._left.set()
        self._thread.join()
        try:
            self._connection.execute(sa.text(f"SELECT pg_advisory_unlock({LOCK})"))
        except (SQLAlchemyError, DatabaseError):
            self._connection.invalidate()

    def _give_signs(self) -> None:
        while not self._left.wait(SIGN_SECONDS):
            with suppress(LockLostError):
                self.require_held()


@contextmanager
def server_lock(engine: Engine) -> Iterator[None]:
    """Hold a lock between all sessions of a server's database.

    Raises:
        DatabaseLockedError: another session keeps it.
        LockLostError: this process was silent for too long, and the block wanted to write.
        WaitEndedError: this process is asked to stop.
    """
    with engine.connect() as connection:
        try:
            _take(engine, connection)
        except BaseException:
            connection.invalidate()  # whatever it has of the locks goes with the session
            raise
        lock = ServerLock(connection)
        before = _held.set(lock)
        try:
            yield
        finally:
            _held.reset(before)
            lock.release()


def _take(engine: Engine, connection: Connection) -> None:
    wait = Wait()
    _apply_settings(connection)
    _lock_in_turns(engine, connection, LOCK, wait)
    _lock_in_turns(engine, connection, WRITES, wait)
    connection.execute(sa.text(f"SELECT pg_advisory_unlock({WRITES})"))


def _lock_in_turns(engine: Engine, connection: Connection, key: str, wait: Wait) -> None:
    """Take an advisory lock; each turn inside the server is short, and its place in the queue is given up after it."""
    while True:
        try:
            connection.execute(sa.text(f"SELECT pg_advisory_lock({key})"))
        except OperationalError as error:
            if sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
        else:
            return
        connection.rollback()
        if not wait.goes_on(lambda: f"the study database's lock, which {_server_holder(engine)}"):
            url = engine.url.render_as_string(hide_password=False)
            raise DatabaseLockedError(_too_long("the study database", _server_holder(engine), url))
        _apply_settings(connection)  # the rollback has taken them back


def _apply_settings(connection: Connection) -> None:
    """Set the session up that is to hold the lock.

    Whatever a server or role has as its defaults: waiting for a turn is no statement that hangs.
    """
    values: dict[str, object] = {f"tcp_{name}": value for name, value in KEEPALIVES.items()}
    values |= {"statement_timeout": 0, "lock_timeout": f"{TURN_SECONDS}s"}
    values["idle_in_transaction_session_timeout"] = f"{SILENCE_SECONDS}s"
    values["application_name"] = f"process {os.getpid()} on {socket.gethostname()}".replace("'", "")
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in values.items())
    connection.execute(sa.text(f"SELECT {settings}"))


def _server_holder(engine: Engine) -> str:
    """Return in words which process holds the lock, as far as the server tells."""
    with engine.connect() as connection:
        row = connection.execute(HOLDER).first()
    if row is None or row.seconds is None:
        return "another session holds"
    return _in_words(row.application_name or "another program", float(row.seconds))


def limit_silence(connection: object, _record: object) -> None:
    """Let a new session of a server wait for no row for ever, and hold none in silence; a listener of SQLAlchemy's."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    limits = {"lock_timeout": ROW_WAIT_SECONDS, "idle_in_transaction_session_timeout": SILENCE_SECONDS}
    cursor.execute("SELECT " + ", ".join(f"set_config('{name}', '{limit}s', false)" for name, limit in limits.items()))
    cursor.close()
    connection.commit()  # type: ignore[attr-defined]


def require_lock_of(connection: Connection) -> None:
    """Refuse to commit a transaction of a thread whose lock may be another's by now; a listener of SQLAlchemy's.

    Raises:
        LockLostError: it may be.
    """
    lock = _held.get()
    if lock is not None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({WRITES})")
        lock.require_held()
