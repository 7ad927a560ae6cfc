"""The URL of a study database: the file that it names, and the URL without its password."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from studies.errors import DatabaseError


def database_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a server.

    Raises:
        DatabaseError: it is not the URL of a SQLite file or a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        backend = ""
    if backend == "postgresql":
        return None
    if backend != "sqlite":
        raise DatabaseError(
            f"{redacted(url)!r} is not a database URL: write sqlite:///path/to/file.db or "
            "postgresql+psycopg://user@host/name"
        )
    if not parsed.database or ":memory:" in parsed.database or "mode=memory" in parsed.database:
        raise DatabaseError("a study needs a database that outlives the program: write sqlite:///path/to/file.db")
    return Path(parsed.database)


def redacted(url: str) -> str:
    """Return the URL without its password, for messages."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return re.sub(r"//.*@", "//***@", url)
    secret = {name: "hidden" for name in parsed.query if "password" in name}
    parsed = parsed.update_query_dict(secret)
    return parsed.render_as_string(hide_password=True)
