"""`mergetune dashboard` as a process, asked byte by byte: nothing goes round its password, and it ends cleanly."""

from __future__ import annotations

import base64
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import optuna
import pytest

from studies.records.database import open_database

MERGETUNE = [sys.executable, "-m", "optimizer.cli"]
PASSWORD = "läng und geheim"
RIGHT = base64.b64encode(f"mergetune:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a dashboard listens that was given its password in a file."""
    folder = tmp_path_factory.mktemp("gate")
    database = open_database(f"sqlite:///{folder}/mergetune.db")
    optuna.create_study(storage=database.storage, study_name="portraits")
    database.close()
    (folder / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    command = [*MERGETUNE, "dashboard", "--port", "0", "--password-file", "password", "--read-only"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert "Traceback" not in complained
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT study_name FROM studies").scalars().all() == ["portraits"]
    database.close()


def ask(port: int, request: bytes) -> list[tuple[int, bytes]]:
    """(status, whole answer) of everything that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(request)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    starts = [found.start() for found in re.finditer(rb"HTTP/1\.[01] \d{3} ", answer)]
    parts = [answer[a:b] for a, b in zip(starts, [*starts[1:], len(answer)], strict=True)]
    return [(int(part[9:12]), part) for part in parts]


def one(port: int, line: str, *headers: str) -> tuple[int, bytes]:
    text = "\r\n".join([line, "Host: 127.0.0.1", "Connection: close", *headers, "", ""])
    ((status, answer),) = ask(port, text.encode("latin-1"))
    return status, answer


PATHS = (
    "/", "//", "///dashboard/", "/dashboard", "/dashboard/", "/api/studies", "/api/studies/", "//api/studies",
    "/./api/studies", "/dashboard/../api/studies", "/static/../api/studies", "/%2e%2e/api/studies", "/%2F/api/studies",
    "/api%2Fstudies", "/%61pi/studies", "/api/studies.", "/api/studies..;/", "/api/studies;jsessionid=1",
    "/api/studies%00", "/api/studies%20", "/API/STUDIES",
    "/api/studies?x=/static/", "/static/bundle.js", "/static/%2e%2e/%2e%2e/_app.py",
    "/favicon.ico", "/csv/1", "/artifacts/1/00000000-0000-0000-0000-000000000000", "/incompatible-rdb-schema",
    "http://127.0.0.1/api/studies", "http://elsewhere.example/static/../api/studies", "//elsewhere.example/api/studies",
    "http://mergetune:x@127.0.0.1/api/studies", "*", "/api/studies#/static/",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_goes_round_the_password(path: str, port: int) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
        status, answer = one(port, f"{method} {path} HTTP/1.1")
        assert status == 401
        assert b"portraits" not in answer
        assert b"www-authenticate: basic " in answer.lower()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "X"])
def test_no_method_goes_round_the_password(method: str, port: int) -> None:
    assert one(port, f"{method} /api/studies HTTP/1.1")[0] == 401


def test_a_method_in_small_letters_is_no_method(port: int) -> None:
    assert one(port, "get /api/studies HTTP/1.1")[0] in {400, 401}


HEADERS = [
    ["Authorization:"],
    ["Authorization: Basic"],
    ["Authorization: Basic "],
    [f"Authorization: {RIGHT}"],
    [f"Authorization: Bearer {RIGHT}"],
    [f"Authorization: Digest {RIGHT}"],
    [f"Authorization: Basic={RIGHT}"],
    [f"Authorization: Basic {RIGHT[:-4]}"],
    [f"Authorization: Basic {RIGHT}A"],
    [f"Authorization: Basic {RIGHT.swapcase()}"],
    [f"Authorization: Basic {base64.b64encode(b'mergetune:').decode()}"],
    [f"Authorization: Basic {base64.b64encode(b'mergetune').decode()}"],
    [f"Authorization: Basic {base64.b64encode(f'root:{PASSWORD}'.encode()).decode()}"],
    [f"Authorization: Basic {base64.b64encode(f'mergetune:{PASSWORD}'.encode('latin-1')).decode()}"],
    [f"Authorization: Basic {RIGHT}", f"Authorization: Basic {RIGHT}"],
    [f"Authorization: Basic {RIGHT}", "Authorization: Basic QUFB"],
    ["Authorization: Basic QUFB", f"Authorization: Basic {RIGHT}"],
    ["Authorization: Basic " + "QUFB" * 4_000],
    [f"Proxy-Authorization: Basic {RIGHT}"],
    [f"HTTP_AUTHORIZATION: Basic {RIGHT}"],
    [f"X-Authorization: Basic {RIGHT}", "X-Forwarded-For: 127.0.0.1", "X-Original-URL: /static/"],
    [f"Cookie: Authorization=Basic {RIGHT}"],
]


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
def test_no_header_but_the_right_one_opens(headers: list[str], port: int) -> None:
    status, answer = one(port, "GET /api/studies HTTP/1.1", *headers)
    assert status == 401
    assert b"portraits" not in answer


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /api/studies HTTP/1.1\r\nHost: a\r\nAuthorization : Basic " + RIGHT.encode(),
        b"GET /api/studies HTTP/1.1\r\nHost: a\r\nAuthorization\0: Basic " + RIGHT.encode(),
        b"GET /api/studies",
        b"GET /api/\xff HTTP/1.1\r\nHost: a",
        b"GET /api/studies HTTP/9.9\r\nHost: a",
        b"GET\t/api/studies HTTP/1.1\r\nHost: a",
        b"\0",
    ],
)
def test_what_is_no_request_gets_nothing(request_head: bytes, port: int) -> None:
    for status, answer in ask(port, request_head + b"\r\n\r\n"):
        assert status >= 400
        assert b"portraits" not in answer


def test_a_header_without_end_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(b"GET /api/studies HTTP/1.1\r\nAuthorization: Basic ")
        said = b""
        with suppress(ConnectionError):  # it hangs up while we are still talking
            for _ in range(100):
                raw.sendall(b"QUFB" * 4096)
            raw.shutdown(socket.SHUT_WR)
            said = raw.recv(100)
    assert said == b"" or b" 431 " in said


def test_headers_beyond_the_limit_are_refused_unread(port: int) -> None:
    for line in ("Authorization: Basic " + "QUFB" * 4_100, f"Cookie: {'a' * 20_000}", "A: b\r\n" * 4_000):
        with suppress(ConnectionError):  # it hangs up on what it did not read
            assert one(port, "GET /api/studies HTTP/1.1", f"Authorization: Basic {RIGHT}", line)[0] == 431
    with suppress(ConnectionError):
        assert one(port, f"GET /{'a' * 20_000} HTTP/1.1", f"Authorization: Basic {RIGHT}")[0] == 431


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nA: ", b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\na"])
def test_200_clients_that_never_finish_a_request_block_nobody(sent: bytes, port: int) -> None:
    with ExitStack() as held:
        slow = [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(200)]
        for raw in slow:
            with suppress(ConnectionError):
                raw.sendall(sent)
        begun = time.monotonic()
        for _ in range(3):
            assert one(port, "GET /api/studies HTTP/1.1", f"Authorization: Basic {RIGHT}")[0] == 200
        assert time.monotonic() - begun < 5  # seconds


def test_a_second_request_on_the_same_connection_needs_the_password_too(port: int) -> None:
    first = f"GET /api/studies HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {RIGHT}\r\n\r\n"
    answers = ask(port, f"{first}GET /api/studies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert [status for status, _ in answers] == [200, 401]


def test_a_request_hidden_in_anothers_body_is_not_answered_with_its_rights(port: int) -> None:
    hidden = "GET /api/studies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    head = f"POST /dashboard HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {RIGHT}\r\n"
    for framing in (
        f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n",
        f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
    ):
        body = f"0\r\n\r\n{hidden}" if "chunked" in framing else hidden
        assert not any(b"portraits" in answer for _, answer in ask(port, f"{head}{framing}\r\n{body}".encode()))


def test_the_right_password_shows_the_studies(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/api/studies", headers={"Authorization": f"Basic {RIGHT}"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"portraits" in answer.read()
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    connection.close()


def test_read_only_the_right_password_changes_nothing(port: int) -> None:
    assert one(port, "DELETE /api/studies/1 HTTP/1.1", f"Authorization: Basic {RIGHT}")[0] == 405
    assert one(port, "DELETE /api/studies/1 HTTP/1.1")[0] == 401


def refused(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MERGETUNE_DASHBOARD_PASSWORD"}
    command = [*MERGETUNE, "dashboard", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_without_a_password_it_listens_on_loopback_only(tmp_path: Path) -> None:
    assert "error: 0.0.0.0 can be reached from other machines" in refused(tmp_path, "--host", "0.0.0.0")


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    assert "is empty" in refused(tmp_path, "--host", "0.0.0.0", "--password-file", "password")


def test_the_password_is_no_option(tmp_path: Path) -> None:
    assert "--password" in refused(tmp_path, "--password", "x")
