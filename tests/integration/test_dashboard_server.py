"""The dashboard: a password gate in front of everything, and a real server behind a real socket."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest

from optimizer.dashboard import (
    PASSWORD_VARIABLE,
    USER,
    behind_password,
    for_local_names,
    listening_port,
    make_server,
    read_password,
)
from optimizer.errors import StorageError
from studies.artifacts import Artifacts
from studies.database import Database, open_database

PASSWORD = "correct horse: bättery"


# --------------------------------------------------------------------------------------------- gate


class Inside:
    """A WSGI application that remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str]] = []

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.reached.append((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
        start_response("200 OK", [])
        return [b"inside"]


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


def ask(
    header: str | None, *, method: str = "GET", path: str = "/dashboard/", password: str = PASSWORD
) -> tuple[str, dict[str, str], bytes, list[tuple[str, str]]]:
    """(status, headers, body, what reached the application)."""
    inside = Inside()
    told: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        told.update(status=status, headers=dict(headers))

    environment = {"REQUEST_METHOD": method, "PATH_INFO": path}
    if header is not None:
        environment["HTTP_AUTHORIZATION"] = header
    body = b"".join(behind_password(inside, password)(environment, start_response))
    return told["status"], told["headers"], body, inside.reached


@pytest.mark.parametrize(
    "header",
    [
        basic(USER, PASSWORD),
        basic(USER, PASSWORD).replace("Basic", "bAsIc"),
        basic(USER, PASSWORD).replace(" ", "  ") + " ",
    ],
)
def test_the_right_password_opens_the_gate(header: str) -> None:
    status, _, body, reached = ask(header)
    assert (status, body) == ("200 OK", b"inside")
    assert reached == [("GET", "/dashboard/")]


WRONG_HEADERS = [
    None,
    "",
    "Basic",
    "Basic ",
    "Basic :",
    "Basic !!!",
    "Basic ====",
    "Basic bWVyZ2V0dW5l",  # the user name alone
    "Basic \xff\xfe",  # bytes that are no base64, as a WSGI server hands them over
    basic(USER, "wrong"),
    basic(USER, ""),
    basic("", PASSWORD),
    basic("admin", PASSWORD),
    basic(USER, PASSWORD.upper()),
    basic(USER, PASSWORD + " "),
    basic(USER, PASSWORD[:-1]),
    basic(USER, PASSWORD, "latin-1"),
    basic(USER, PASSWORD).replace("Basic", "Bearer"),
    basic(USER, PASSWORD).replace("Basic ", "Basic"),
    basic(USER, PASSWORD).replace("Basic ", ""),
    f"Basic {USER}:{PASSWORD}",
]


@pytest.mark.parametrize("header", WRONG_HEADERS)
def test_everything_else_is_asked_for_a_password(header: str | None) -> None:
    status, headers, body, reached = ask(header)
    assert status.startswith("401 ")
    assert headers["WWW-Authenticate"].startswith("Basic realm=")
    assert reached == []
    assert PASSWORD.encode() not in body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"])
@pytest.mark.parametrize(
    "path", ["/", "", "//", "/dashboard/", "/static/x.js", "/api/studies", "/..;/api/studies", "/static/../api/studies",
             "//api//studies", "/api/studies;x", "/%2e%2e/api", "/favicon.ico", "/artifacts/1/2/3", "\x00"]
)  # fmt: skip
def test_no_path_and_no_method_goes_round_the_gate(method: str, path: str) -> None:
    status, _, _, reached = ask(None, method=method, path=path)
    assert status.startswith("401 ")
    assert reached == []


# ----------------------------------------------------------------------------------------- password


def test_the_password_is_the_files_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "not this one")
    file = tmp_path / "password"
    file.write_bytes("\ufeffpässword \r\nsecond line\n".encode())
    assert read_password(file) == "pässword"


@pytest.mark.parametrize(("value", "password"), [(None, None), ("", None), ("  ", None), ("secret", "secret")])
def test_without_a_file_the_environment_is_asked(
    value: str | None, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(PASSWORD_VARIABLE, value)
    assert read_password(None) == password


@pytest.mark.parametrize("content", [b"", b"\n", b"  \nsecret\n", b"\xff\xfe\x00"])
def test_a_password_file_without_a_password_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(StorageError, match="first line"):
        read_password(file)


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(StorageError, match=f"{path} cannot be read"):
            read_password(path)


# ------------------------------------------------------------------------------------------- server


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/study.db")
    optuna.create_study(storage=opened.storage, study_name="portraits")
    yield opened
    opened.close()


@contextmanager
def served(database: Database, password: str | None, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a running dashboard."""
    server = make_server(database, Artifacts.beside(database.url), host, 0, password)
    port = listening_port(server)
    assert port > 0
    thread = threading.Thread(target=_run_until_closed, args=[server], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        thread.join(10)


def _run_until_closed(server: Any) -> None:
    with suppress(OSError):  # select() on the socket that was just closed
        server.run()


def fetch(url: str, header: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={} if header is None else {"Authorization": header})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_dashboard_answers_and_shows_the_studies(database: Database, host: str) -> None:
    with served(database, None, host) as address:
        status, page = fetch(f"{address}/dashboard/")
        assert status == 200
        assert b"<html" in page.lower()
        status, answer = fetch(f"{address}/api/studies")
        assert status == 200
        assert [study["study_name"] for study in json.loads(answer)["study_summaries"]] == ["portraits"]


def test_behind_a_password_nothing_answers_without_it(database: Database) -> None:
    with served(database, PASSWORD) as address:
        for path in ("/", "/dashboard/", "/api/studies", "/static/bundle.js", "//api/studies", "/%2e%2e/api/studies"):
            assert fetch(address + path)[0] == 401
            assert fetch(address + path, basic(USER, "wrong"))[0] == 401
        status, answer = fetch(f"{address}/api/studies", basic(USER, PASSWORD))
        assert status == 200
        assert b"portraits" in answer


def test_a_port_that_is_taken_is_named(database: Database) -> None:
    with served(database, None) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(StorageError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"):
            make_server(database, Artifacts.beside(database.url), "127.0.0.1", port, None)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "not an address"])
def test_an_address_that_is_not_here_is_named(database: Database, host: str) -> None:
    with pytest.raises(StorageError, match=f"cannot listen on {host}:0"):
        make_server(database, Artifacts.beside(database.url), host, 0, PASSWORD)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_without_a_password_only_local_names_are_answered(asked: str, status: int) -> None:
    answers: list[str] = []

    def inside(_environment: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"inside"]

    gate = for_local_names(inside, "127.0.0.1")
    list(gate({"HTTP_HOST": asked}, lambda line, _headers: answers.append(line)))
    assert [int(line.split()[0]) for line in answers] == [status]
