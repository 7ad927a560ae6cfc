"""A server for pages of ours: behind a password, or for this machine alone."""

from __future__ import annotations

import os
from pathlib import Path

from optimizer.errors import StorageError
from optimizer.observe.http_gate import Application, Password, behind_password, for_local_names, for_own_pages
from optimizer.observe.http_server import HttpServer, Limits
from studies.system.passwords import read_password_file

PASSWORD_VARIABLE = "MERGETUNE_DASHBOARD_PASSWORD"  # noqa: S105 - the variable's name


def guarded_server(application: Application, host: str, port: int, password: str | None, limits: Limits) -> HttpServer:
    """Return a server that listens and is ready to run.

    Args:
        password: None: only requests for names of this machine are answered.

    Raises:
        StorageError: the address cannot be listened on.
    """
    application = for_own_pages(application)
    # The last gate is the first that a request meets.
    try:
        if password is None:
            return HttpServer(for_local_names(application, host), host, port, limits)
        checked = Password(password)
        guarded = behind_password(application, checked)
        return HttpServer(guarded, host, port, limits, may_upload=checked.may_upload, must_wait=checked.must_wait)
    except (OSError, RuntimeError) as error:  # the latter: no more threads
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot listen on {host}:{port} ({reason}): choose another --port") from error
    except ValueError as error:
        raise StorageError(f"cannot listen on {host}:{port}: no such address on this machine") from error


def page_password(file: Path | None) -> str | None:
    """Read the password from a file's first line or from the environment; None if there is none.

    It is never taken from the command line, where others can read it.

    Raises:
        PasswordError: the file is missing, empty or not text.
    """
    if file is not None:
        return read_password_file(file)
    return os.environ.get(PASSWORD_VARIABLE, "").strip() or None
