"""The URL of a study database: made of a path whatever characters that has, read, compared, and how it is shown."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from basics.names import as_on_disk, from_home, typed_path
from studies.errors import DatabaseError
from studies.system.advice import quoted

SQLITE = frozenset({"sqlite", "sqlite+pysqlite"})


def sqlite_url(file: Path) -> str:
    """Return the URL of a SQLite file; what a URL gives a meaning of its own, as `%` or `?`, is escaped.

    Raises:
        DatabaseError: the path is no text, so no URL can hold it.
    """
    try:
        return URL.create("sqlite", database=str(file)).render_as_string()
    except UnicodeEncodeError as error:
        raise DatabaseError(f"the path {file} is not UTF-8: give the study database another name or folder") from error


def complete_url(storage: str) -> str:
    """Return the URL of a storage as people write it: a URL, or the path of a SQLite file.

    A file is named from the root on, so that the URL means the same in any folder and process. What is no URL of ours
    is returned as it is: whoever opens it says what is wrong.

    Raises:
        DatabaseError: the path cannot be written as a URL, or a URL's file not be told.
    """
    if "://" not in storage:
        return sqlite_url(typed_path(storage).resolve())
    file = database_file(storage)
    return storage if file is None else sqlite_url(as_on_disk(from_home(file)).absolute())


def canonical_url(url: str) -> str:
    """Return a database's URL with everything escaped, as other programs' parsers want it; it holds the password.

    Optuna fills in `{...}` of a URL; a bracket that is escaped is none.
    """
    return make_url(url).render_as_string(hide_password=False)


def database_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a server.

    Raises:
        DatabaseError: not a database URL at all, or one whose file cannot be told.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        backend = ""
    if backend == "postgresql":
        return None
    if backend != "sqlite" or parsed.drivername not in SQLITE:
        raise DatabaseError(
            f"{redacted(url)!r} is not a database URL: write sqlite:///path/to/file.db or "
            "postgresql+psycopg://user@host/name"
        )
    if parsed.host or parsed.username is not None:
        raise DatabaseError(
            f"{redacted(url)!r} names no file: a SQLite URL has three slashes, sqlite:///path/to/file.db"
        )
    if not parsed.database or parsed.database in {":memory:", "file::memory:"} or parsed.query.get("mode") == "memory":
        raise DatabaseError("a study needs a database that outlives the program: write sqlite:///path/to/file.db")
    if "?" in url:
        raise DatabaseError(
            f"a SQLite URL ends with the file's path, got {url!r}: a question mark in a path is written %3F, or give "
            "the path without sqlite:///"
        )
    return Path(parsed.database)


def redacted(url: str) -> str:
    """Return the URL without its password, or a SQLite file's path, for messages."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return re.sub(r"//.*@", "//***@", url)
    if parsed.drivername in SQLITE and parsed.database and not parsed.host:
        return parsed.database
    secret = {name: "hidden" for name in parsed.query if "password" in name}
    parsed = parsed.update_query_dict(secret)
    return parsed.render_as_string(hide_password=True)


def storage_argument(url: str) -> str:
    """Return what to write behind `--storage` in a shell to name a database; a password is left out."""
    file = database_file(url)
    # A path that leads through a link would be resolved, and the artifacts are beside the link.
    return quoted(redacted(url) if file is None or complete_url(str(file)) == url else url)


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name one database, by whatever links or passwords."""
    files = database_file(one), database_file(other)
    if files[0] is None or files[1] is None:
        return files == (None, None) and _without_password(one) == _without_password(other)
    return files[0].resolve() == files[1].resolve()


def _without_password(url: str) -> URL:
    return make_url(url)._replace(password=None)  # `set` takes None for "as it was"
