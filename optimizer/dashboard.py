"""optuna-dashboard in this process: cached storage, our artifact folder, and a password where others can reach it."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna_dashboard
from optuna.storages import get_storage
from waitress import wasyncore
from waitress.server import create_server

from optimizer.errors import StorageError
from studies.artifacts import Artifacts
from studies.database import Database

USER = "mergetune"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", ""})  # an HTTP/1.0 client names none
PASSWORD_VARIABLE = "MERGETUNE_PASSWORD"  # noqa: S105 - the variable's name
THREADS = 8

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]


def make_server(database: Database, artifacts: Artifacts, host: str, port: int, password: str | None) -> Any:
    """A waitress server that is ready to run; `listening_port` tells where it listens.

    Raises:
        StorageError: the address cannot be listened on.
    """
    # Optuna wraps a plain RDB storage in its cache: the study page of a long study loads several times faster.
    application: Application = optuna_dashboard.wsgi(get_storage(database.storage), artifact_store=artifacts.store)
    application = without_renaming(application)
    guarded = for_local_names(application, host) if password is None else behind_password(application, password)
    # A name may stand for an address of each family, and port 0 would then be two ports.
    address = "127.0.0.1" if host == "localhost" else host
    sockets: dict[int, Any] = {}
    try:
        return create_server(guarded, sockets, host=address, port=port, threads=THREADS, ident="mergetune")
    except OSError as error:
        wasyncore.close_all(sockets)
        raise StorageError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from error
    except ValueError as error:  # waitress says so of a name that cannot be resolved
        raise StorageError(f"cannot listen on {host}:{port}: no such address on this machine") from error


def listening_port(server: Any) -> int:
    """Where a server of `make_server` listens."""
    addresses = getattr(server, "effective_listen", None)  # of a host name with several addresses
    return int(addresses[0][1] if addresses else server.effective_port)


def without_renaming(application: Application) -> Application:
    """Refuse to rename a study: optuna-dashboard copies it to a new one, and our tables know it by its name."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if environment.get("PATH_INFO", "").rstrip("/").endswith("/rename"):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"reason": "a study of mergetune keeps its name"}']
        return application(environment, start_response)

    return gate


def for_local_names(application: Application, host: str) -> Application:
    """Refuse requests for other host names: a web page elsewhere may point its own name at this machine.

    Without it, DNS rebinding would let any page that a user visits delete studies.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        asked = environment.get("HTTP_HOST", "")
        name = asked[1:].partition("]")[0] if asked.startswith("[") else asked.partition(":")[0]
        if name in LOCAL_NAMES | {host}:
            return application(environment, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"ask for 127.0.0.1 or localhost\n"]

    return gate


def behind_password(application: Application, password: str) -> Application:
    """HTTP basic authentication in front of every path and method."""
    expected = f"{USER}:{password}".encode()

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if hmac.compare_digest(_credentials(environment.get("HTTP_AUTHORIZATION", "")), expected):
            return application(environment, start_response)
        start_response(
            "401 Unauthorized",
            [
                ("WWW-Authenticate", 'Basic realm="mergetune", charset="UTF-8"'),
                ("Content-Type", "text/plain"),
            ],
        )
        return [b"a password is needed\n"]

    return gate


def _credentials(header: str) -> bytes:
    """`user:password` of a basic authorization header; empty when it is not one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return b""


def read_password(file: Path | None) -> str | None:
    """From a file's first line or the environment; never from the command line, where others can read it.

    Raises:
        StorageError: the file is missing, empty or no text.
    """
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE, "").strip() or None
    try:
        password = file.read_text(encoding="utf-8-sig").split("\n", maxsplit=1)[0].strip()
    except UnicodeDecodeError as error:
        raise StorageError(
            f"the password file {file} is not UTF-8 text: write the password on its first line"
        ) from error
    except OSError as error:
        raise StorageError(f"the password file {file} cannot be read: {error.strerror}") from error
    if not password:
        raise StorageError(f"the password file {file} is empty: write the password on its first line")
    return password
