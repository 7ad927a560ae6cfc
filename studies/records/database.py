"""The study database: Optuna's storage and our tables in one place, SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection, CursorResult, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from basics.messages import first_line
from studies.errors import DatabaseAwayError, DatabaseError, DatabaseReadOnlyError, SchemaChangedError
from studies.records.file_identity import OpenedFile
from studies.records.locking import KEEPALIVES, limit_silence, lock_file, require_lock_of, server_lock, sqlite_lock
from studies.records.other_programs import refuse_other_programs
from studies.records.patient_sqlite import PatientConnection
from studies.records.read_only import reading_options
from studies.records.refusals import TAKES_NO_WRITES, explain_refusals, in_words, is_away, lacks_a_right
from studies.records.stored_json import parse_column
from studies.records.tables import VERSION_TABLE
from studies.system.advice import advised
from studies.system.database_files import require_database_file
from studies.system.database_url import canonical_url, database_file, redacted
from studies.system.passwords import read_password_file

SERVER_WAIT_SECONDS = 10  # for a connection
VANISHED_PEER = {**KEEPALIVES, "tcp_user_timeout": 60_000}  # milliseconds for what was sent and not acknowledged
# As libpq has PGPASSFILE, but with the password alone: one file serves the database's container and us.
PASSWORD_FILE_VARIABLE = "MERGETUNE_STORAGE_PASSWORD_FILE"  # noqa: S105 - the variable's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """An opened study database."""

    url: str
    storage: RDBStorage
    file: OpenedFile | None = None  # of a SQLite database that is written
    reads_only: bool = False  # nothing can be written through it

    @property
    def engine(self) -> Engine:
        """Optuna's connections, which we use as well."""
        engine: Engine = self.storage.engine
        return engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection with one transaction: all of it is stored, or nothing.

        Raises:
            SchemaChangedError: another version has changed the tables since they were opened.
            DatabaseReplacedError: the file was removed, moved or replaced since then.
            LockLostError: this thread held the lock of `exclusive`, and was silent for too long.
        """
        with self.engine.begin() as connection:
            _require_known_schema(connection, self.url)
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold every other process off while the block runs, as while a trial is taken.

        Optuna hands out trials one by one only where the database can lock rows; SQLite cannot. Who only reads waits
        for the lock of others, and makes none. A long wait is logged, with the process that has the lock.

        Raises:
            SchemaChangedError: another version has changed the tables since they were opened.
            DatabaseReplacedError: the file was removed, moved or replaced since then.
            DatabaseLockedError: another process has kept the lock for too long.
            LockLostError: this process was silent for so long that another has the lock; what it wanted to write since
                is not stored.
            WaitEndedError: the process was asked to stop meanwhile.
        """
        self._require_same_file()  # or a lock would be made anew, in a folder that may be gone
        with _exclusive(self.engine, database_file(self.url), reads_only=self.reads_only):
            self._require_same_file()
            with self.engine.connect() as connection:
                _require_known_schema(connection, self.url)
            yield

    def _require_same_file(self) -> None:
        if self.file is not None:
            self.file.require_same()

    def clock(self) -> float:
        """Return the time by which workers see each other. See the function `clock`."""
        with self.engine.connect() as connection:
            return clock(connection)

    def close(self) -> None:
        """Close every connection."""
        self.storage.remove_session()
        self.engine.dispose()


def open_database(url: str, *, create: bool = True) -> Database:
    """Connect in order to write, and bring the schema to this version.

    Args:
        create: whether to make a missing SQLite file.

    Raises:
        DatabaseError: it cannot be reached, is no database or another program's, or was written by a newer mergetune
            or Optuna.
        DatabaseAwayError: it cannot be reached now.
        DatabaseReadOnlyError: it takes no writes.
    """
    file = database_file(url)
    if file is not None:
        require_database_file(file, create=create)
        _require_writable(file)
    with _explained(url), _set_up_alone(url, file):
        storage = _open_storage(url, file)
        opened = None if file is None else OpenedFile(file)
        _guard_commits(storage.engine, opened)
        return Database(url=url, storage=storage, file=opened)


def _guard_commits(engine: Engine, file: OpenedFile | None) -> None:
    """Let nothing be committed that would be lost or done twice; Optuna's writes come here as well as ours."""
    if file is None:
        sa.event.listen(engine, "commit", require_lock_of)
    else:
        sa.event.listen(engine, "commit", lambda _connection: file.require_same())


def stored_schema(url: str) -> str | None:
    """Return the revision of a database's schema; None where there are no tables of ours, or no file.

    Raises:
        DatabaseError: it cannot be reached, or is no database.
    """
    file = database_file(url)
    if file is not None:
        require_database_file(file, create=True)
        if not file.exists():
            return None
    with _explained(url), _engine(url, _reading_options(url, file)) as engine, engine.connect() as connection:
        return _stored_revision(connection)


def current_schema() -> str:
    """Return the revision of this version's schema."""
    return str(_head())


def open_to_read(url: str) -> Database:
    """Connect without writing anything: no table, no file beside a SQLite file, no lock.

    Raises:
        DatabaseError: as `open_database`, or it holds no study, or must be brought to this version's schema first.
    """
    file = database_file(url)
    if file is not None:
        require_database_file(file, create=False)
    with _explained(url):
        options = _reading_options(url, file)
        with _engine(url, options) as engine:
            _require_readable(engine, url, file)
        storage = RDBStorage(canonical_url(url), engine_kwargs=options, skip_table_creation=True)
        explain_refusals(storage.engine, url)
        return Database(url=url, storage=storage, reads_only=True)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn whatever goes wrong while a database is opened into a DatabaseError of one line."""
    try:
        yield
    except (SQLAlchemyError, OptunaError, OSError, RuntimeError, ImportError, ValueError) as error:
        kind = DatabaseAwayError if is_away(error) else DatabaseError
        raise kind(f"the study database {redacted(url)} cannot be used: {in_words(error)}") from error


def _require_writable(file: Path) -> None:
    """Refuse a file that is read-only, or in a folder that is: SQLite makes files beside it, and we the lock.

    Raises:
        DatabaseReadOnlyError: what is read-only.
    """
    for location in (file, file.resolve().parent):
        if location.exists() and not os.access(location, os.W_OK):
            raise DatabaseReadOnlyError(
                f"the study database {file} cannot be written, because {location} is read-only here: make it writable, "
                "or name another database with --storage"
            )


def _require_readable(engine: Engine, url: str, file: Path | None) -> None:
    """Refuse what a command that only reads would find empty, or not understand.

    Raises:
        DatabaseError: it is another program's, holds no study, or has another version's schema.
    """
    if _is_current(engine):
        return
    with _exclusive(engine, file, reads_only=True), engine.connect() as connection:  # it may just be made
        refuse_other_programs(connection, redacted(url))
        stored = _stored_revision(connection)
    if stored is None:
        raise DatabaseError(f"no study is in the database {redacted(url)}: start one first, or name another --storage")
    if stored != _head():
        _refuse_newer(stored)
        raise DatabaseError(
            f"the study database {redacted(url)} has the schema of an older mergetune ({stored}, this version has "
            f"{_head()}), and it is only read here: first run "
            f"`{advised('study migrate', url)}`"
        )


def _engine_options(url: str) -> dict[str, Any]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"connect_args": {"factory": PatientConnection}, "json_deserializer": parse_column}
    usual = {"connect_timeout": SERVER_WAIT_SECONDS, **VANISHED_PEER}
    arguments: dict[str, Any] = {name: value for name, value in usual.items() if name not in parsed.query}
    # Whatever the server's own encoding is: it converts, or keeps bytes as they are (SQL_ASCII).
    arguments["client_encoding"] = "utf8"
    if parsed.get_dialect().driver == "psycopg":
        # A pooler such as PgBouncer may give each transaction another session, which knows no prepared statement.
        arguments["prepare_threshold"] = None
    file = os.environ.get(PASSWORD_FILE_VARIABLE)
    if file and not parsed.password and "password" not in parsed.query:
        arguments["password"] = read_password_file(Path(file))
    return {"pool_pre_ping": True, "connect_args": arguments, "json_deserializer": parse_column}


def _reading_options(url: str, file: Path | None) -> dict[str, Any]:
    if file is not None:
        return reading_options(file)
    return _engine_options(url) | {"execution_options": {"postgresql_readonly": True}}


@contextmanager
def _set_up_alone(url: str, file: Path | None) -> Iterator[None]:
    """Hold other processes off while tables are made. A complete database is used without waiting."""
    if file is not None and (not file.exists() or file.stat().st_size == 0):
        with sqlite_lock(file):
            yield
        return
    with _engine(url, _reading_options(url, file)) as looking:
        if file is None:
            _require_writes(looking, url)
        current = _is_current(looking)
        if not current and (file is None or not lock_file(file).exists()):
            _refuse_other_programs(looking, url)  # before a lock is made beside their file
    if current:
        yield
        return
    with _engine(url, _engine_options(url)) as engine, _exclusive(engine, file):
        with _engine(url, _reading_options(url, file)) as looking:
            _refuse_other_programs(looking, url)
        yield


def _refuse_other_programs(engine: Engine, url: str) -> None:
    with engine.connect() as connection:
        refuse_other_programs(connection, redacted(url))


def _is_current(engine: Engine) -> bool:
    with engine.connect() as connection:
        return _stored_revision(connection) == _head()


def _open_storage(url: str, file: Path | None) -> RDBStorage:
    """Open Optuna's storage, and make the tables that are missing."""
    if file is not None:
        if not file.exists():
            file.touch()  # SQLite makes it 0644, which no group can write whatever the umask; its -wal and -shm follow
        _use_wal(url)
    storage = RDBStorage(canonical_url(url), engine_kwargs=_engine_options(url))
    try:
        migrate(storage.engine)
    except BaseException:
        storage.engine.dispose()
        raise
    explain_refusals(storage.engine, url)
    sa.event.listen(storage.engine, "connect", limit_silence if file is None else _tune_sqlite)
    storage.engine.dispose()  # connections made so far were not tuned
    return storage


def _require_writes(engine: Engine, url: str) -> None:
    """Refuse a server that takes no writes, by a DatabaseReadOnlyError."""
    with engine.connect() as connection:
        usual = "current_setting('default_transaction_read_only')::boolean OR pg_is_in_recovery()"
        if connection.execute(sa.text(f"SELECT {usual}")).scalar_one():
            raise DatabaseReadOnlyError(f"the study database {redacted(url)} cannot be written: {TAKES_NO_WRITES}")


def _use_wal(url: str) -> None:
    """Write ahead, a mode that the file keeps."""
    with _engine(url, _engine_options(url)) as engine, engine.connect() as connection:
        connection.execute(sa.text("PRAGMA journal_mode=WAL"))


@contextmanager
def _engine(url: str, options: dict[str, Any]) -> Iterator[Engine]:
    """Give connections apart from Optuna's."""
    engine = sa.create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """Set what SQLite forgets: WAL with synchronous=NORMAL survives a killed process, and is several times faster."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def migrate(engine: Engine) -> None:
    """Bring our tables to this version's schema.

    Raises:
        DatabaseError: the database was written by a newer mergetune, or its tables are another role's.
    """
    script = _scripts()
    with engine.begin() as connection:
        stored = _stored_revision(connection)
        if stored == script.get_current_head():
            return
        if stored is not None:
            _refuse_newer(stored)
        if engine.dialect.name == "sqlite":  # or its driver would store every CREATE TABLE by itself
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config = _alembic()
        config.attributes["connection"] = connection
        with _upgrading(engine, stored):
            command.upgrade(config, "head")


@contextmanager
def _upgrading(engine: Engine, stored: str | None) -> Iterator[None]:
    """Explain that a role may not change tables, to which no right can be granted: only their owner may.

    Args:
        stored: the revision before; None where there are no tables yet, and the right to make some can be granted.
    """
    try:
        yield
    except SQLAlchemyError as error:
        if stored is None or not lacks_a_right(error):
            raise
        url = engine.url.render_as_string(hide_password=False)
        raise DatabaseError(
            f"the study database {redacted(url)} keeps its schema ({stored}, this version has {_head()}): "
            f"{first_line(error.__cause__ or error)}: run `mergetune study migrate` as the owner of the tables, whom "
            "--storage is to name"
        ) from error


def _refuse_newer(stored: str) -> None:
    """Refuse a schema that this version does not know, by a DatabaseError."""
    if stored not in {each.revision for each in _scripts().walk_revisions()}:
        raise DatabaseError(
            f"this study database belongs to a newer mergetune (schema {stored}, this version knows up to {_head()}): "
            "upgrade mergetune"
        )


def _require_known_schema(connection: Connection, url: str) -> None:
    """Refuse to go on where another version has changed the schema while this one was at work.

    Raises:
        SchemaChangedError: it has.
    """
    stored = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    if stored != _head():
        raise SchemaChangedError(
            f"another version of mergetune has changed this study database since it was opened (schema {stored}, this "
            f"version has {_head()}): nothing more is written by this one; use one version everywhere, and go on with "
            f"`{advised('study resume STUDY', url)}`"
        )


@functools.cache
def _head() -> str | None:
    """Return the revision of this version's schema."""
    return _scripts().get_current_head()


def _alembic() -> Config:
    config = Config()
    # Alembic reads its options with configparser, to which a percent sign in a folder's name is special.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _stored_revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).first()  # noqa: S608 - a constant
    return None if row is None else str(row[0])


def _exclusive(engine: Engine, file: Path | None, *, reads_only: bool = False) -> AbstractContextManager[None]:
    """Let in one process at a time, by a lock that the system or the server releases when its holder dies.

    Args:
        reads_only: whether to wait only where there is a lock's file already.
    """
    if file is None:
        return server_lock(engine)
    if reads_only and not lock_file(file).exists():
        return nullcontext()
    return sqlite_lock(file, silently=reads_only)


def now() -> float:
    """Return seconds since the epoch, for the time columns."""
    return time.time()


def clock(connection: Connection) -> float:
    """Return the time by which workers see each other, in seconds since the epoch.

    It is the server's, or this machine's for a file.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())
    return now()


def inserted_id(result: CursorResult[Any]) -> int:
    """Return the id of the one row that was inserted."""
    (row_id,) = result.inserted_primary_key or (None,)
    return int(row_id)  # type: ignore[arg-type]
