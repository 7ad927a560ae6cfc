"""The study database: Optuna's storage and our tables in one place, SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from studies.errors import DatabaseError
from studies.tables import VERSION_TABLE

SQLITE_WAIT_SECONDS = 60.0  # for another process's write


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """An opened study database."""

    url: str
    storage: RDBStorage

    @property
    def engine(self) -> Engine:
        engine: Engine = self.storage.engine
        return engine

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it is stored, or nothing."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold every other process off while a trial is taken.

        Optuna hands out trials one by one only where the database can lock rows; SQLite cannot.
        """
        if self.is_sqlite:
            with sqlite_lock(database_file(self.url)):
                yield
        else:
            with self.engine.connect() as connection:
                connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('mergetune'))"))
                try:
                    yield
                finally:
                    connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('mergetune'))"))

    def close(self) -> None:
        self.storage.remove_session()
        self.engine.dispose()


def open_database(url: str, *, create: bool = True) -> Database:
    """Connect, and bring the schema to this version.

    Args:
        create: make a missing SQLite file; reading commands do not.

    Raises:
        DatabaseError: unreachable, not a database, or written by a newer mergetune or Optuna.
    """
    file = database_file(url)
    if file is not None and not file.exists() and not create:
        raise DatabaseError(f"no study database at {file}: start a study first, or name the database with --storage")
    if file is not None and not file.parent.is_dir():
        raise DatabaseError(f"the folder {file.parent} does not exist: create it, or name another place with --storage")
    try:
        storage = _open_storage(url, file)
    except (SQLAlchemyError, RuntimeError, ImportError, ValueError) as error:
        raise DatabaseError(f"the study database {redacted(url)} cannot be used: {_first_line(error)}") from error
    database = Database(url=url, storage=storage)
    try:
        migrate(database.engine)
    except SQLAlchemyError as error:
        database.close()
        raise DatabaseError(f"the study database {redacted(url)} cannot be used: {_first_line(error)}") from error
    except DatabaseError:
        database.close()
        raise
    return database


def _open_storage(url: str, file: Path | None) -> RDBStorage:
    if file is None:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    engine = sa.create_engine(url, connect_args={"timeout": SQLITE_WAIT_SECONDS})
    with engine.connect() as connection:  # the mode stays in the file
        connection.execute(sa.text("PRAGMA journal_mode=WAL"))
    engine.dispose()
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_SECONDS}})
    sa.event.listen(storage.engine, "connect", _tune_sqlite)
    storage.engine.dispose()  # connections made so far were not tuned
    return storage


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """WAL with synchronous=NORMAL survives a killed process, and is several times faster."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def migrate(engine: Engine) -> None:
    """Bring our tables to this version's schema.

    Raises:
        DatabaseError: the database was written by a newer mergetune.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        stored = _stored_revision(connection)
        if stored == script.get_current_head():
            return
        if stored is not None and stored not in {row.revision for row in script.walk_revisions()}:
            raise DatabaseError(
                f"this study database belongs to a newer mergetune (schema {stored}, this version knows up to "
                f"{script.get_current_head()}): upgrade mergetune"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _stored_revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).first()  # noqa: S608 - a constant
    return None if row is None else str(row[0])


def database_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for a server.

    Raises:
        DatabaseError: not a database URL at all.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError(
            f"{url!r} is not a database URL: write sqlite:///path/to/file.db or postgresql+psycopg://user@host/name"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseError("a study needs a database that outlives the program: write sqlite:///path/to/file.db")
    return Path(parsed.database)


def redacted(url: str) -> str:
    """The URL without its password, for messages."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n", maxsplit=1)[0]


@contextmanager
def sqlite_lock(file: Path | None) -> Iterator[None]:
    """A lock between the processes of one machine, released by the system when its holder dies."""
    import fcntl

    if file is None:
        yield
        return
    with file.with_name(file.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def now() -> float:
    """Seconds since the epoch, for the time columns."""
    return time.time()
