"""Hostile clients at a real socket: whatever they hold or drip, others are answered, and all of it is taken back."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from optimizer.observe.http_clients import Frequency, WrongPasswords, client_of
from optimizer.observe.http_gate import Password, behind_password
from optimizer.observe.http_server import SMALL_BODY_BYTES, HttpServer, Limits

LARGE = b"x" * (24 << 20)  # bytes: more than the kernel buffers
LIMITS = Limits(
    connections=40,
    connections_per_address=10,
    body_bytes=1 << 20,
    threads=4,
    head_seconds=1,
    keep_alive_seconds=1.5,
    body_seconds=1,
    requests_per_connection=5,
    answer_seconds=1,
    answer_bytes_per_second=64 << 10,
)
PATIENT = replace(LIMITS, head_seconds=60, keep_alive_seconds=60, body_seconds=60, answer_seconds=60)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def application(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with LARGE at /large, and with how much came elsewhere."""
    if environment["PATH_INFO"] == "/broken":
        raise MemoryError
    body = LARGE if environment["PATH_INFO"] == "/large" else b"%d" % len(environment["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving(limits: Limits, inside: Any = application, **questions: Any) -> Iterator[int]:
    """The port of a server that runs."""
    server = HttpServer(inside, "127.0.0.1", 0, limits, **questions)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.port
    finally:
        server.close()
        thread.join(20)
        assert not thread.is_alive()


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def ask(port: int, source: str = "127.0.0.1", path: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
    """(status, headers by small names) of a request of one's own connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0))
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def seconds_until_cut_off(raw: socket.socket, pieces: Iterable[bytes], pause: float = 0.1) -> float:
    """How long a client can go on with sending a piece each `pause` seconds, at most 8 s."""
    begun = time.monotonic()
    raw.settimeout(pause)
    for piece in pieces:
        try:
            raw.sendall(piece)
            if raw.recv(1 << 16) == b"":
                break
        except TimeoutError:  # nothing comes, and the connection is open
            pass
        except ConnectionError:
            break
        if time.monotonic() - begun > 8:
            break
    return time.monotonic() - begun


# --------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    "pieces",
    [
        itertools.repeat(b""),
        itertools.chain([b"GET /"], itertools.repeat(b"a")),
        itertools.chain([b"GET / HTTP/1.1\r\n"], itertools.repeat(b"A: b\r\n")),
        itertools.repeat(b"\r\n"),
    ],
    ids=["silence", "request line", "headers", "blank lines"],
)
def test_a_request_that_does_not_come_to_its_end_is_cut_off(pieces: Iterable[bytes]) -> None:
    with serving(LIMITS) as port, connect(port) as raw:
        assert seconds_until_cut_off(raw, pieces) < 3


@pytest.mark.parametrize("path", ["/", "/large"])
def test_a_body_that_does_not_come_to_its_end_is_cut_off(path: str) -> None:
    with serving(LIMITS) as port, connect(port) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode())
        assert seconds_until_cut_off(raw, itertools.repeat(b"a")) < 3


@pytest.mark.parametrize(
    "pieces",
    [
        itertools.repeat(b""),
        itertools.repeat(b"\r\n"),
        itertools.chain([b"GET / HTTP/1.1\r\nA: "], itertools.repeat(b"b")),
    ],
    ids=["silence", "blank lines", "headers"],
)
def test_a_connection_is_kept_for_a_while_after_an_answer(pieces: Iterable[bytes]) -> None:
    with serving(LIMITS) as port, connect(port) as raw:
        raw.sendall(REQUEST)
        assert b" 200 OK" in raw.recv(1000)
        assert 1 < seconds_until_cut_off(raw, pieces) < 4


def test_a_connection_has_a_number_of_requests() -> None:
    with serving(PATIENT) as port, connect(port) as raw:
        raw.sendall(REQUEST * 20)
        said = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert said.count(b" 200 OK") == LIMITS.requests_per_connection


@pytest.mark.parametrize("bytes_at_a_time", [0, 10])
def test_a_client_that_hardly_takes_its_answer_is_cut_off(bytes_at_a_time: int) -> None:
    with serving(LIMITS) as port, connect(port) as raw:
        raw.sendall(REQUEST.replace(b"GET /", b"GET /large"))
        begun, got = time.monotonic(), 0
        while time.monotonic() - begun < 4:  # seconds
            got += len(raw.recv(bytes_at_a_time)) if bytes_at_a_time else 0
            time.sleep(0.05)
        with suppress(ConnectionError):
            while piece := raw.recv(1 << 20):
                got += len(piece)
    assert got < len(LARGE)


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    with serving(LIMITS) as port, connect(port) as raw:
        raw.sendall(REQUEST.replace(b"GET /", b"GET /large").replace(b"Host", b"Connection: close\r\nHost"))
        got, begun = 0, time.monotonic()
        while piece := raw.recv(400_000):
            got += len(piece)
            time.sleep(0.05)
    assert got > len(LARGE)
    assert time.monotonic() - begun > 2 * LIMITS.answer_seconds


# ---------------------------------------------------------------------------------------- connections


def half_an_upload(number: int) -> bytes:
    return b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"a" * number


UNREAD = [b"", b"GET /", REQUEST * 300, REQUEST.replace(b"GET /", b"GET /large"), half_an_upload(3)]


@pytest.mark.parametrize("sent", UNREAD, ids=["silent", "begun", "many unread", "large unread", "upload"])
@pytest.mark.parametrize("sources", [1, 30])
def test_whoever_holds_connections_keeps_nobody_out(sent: bytes, sources: int) -> None:
    with serving(PATIENT) as port, ExitStack() as held:
        for number in range(200):
            raw = held.enter_context(connect(port, f"127.0.0.{2 + number % sources}"))
            with suppress(ConnectionError):
                raw.sendall(sent)
        begun = time.monotonic()
        assert ask(port, "127.0.0.1")[0] == 200
        assert time.monotonic() - begun < PATIENT.head_seconds / 2
        assert answered_in_the_end(port, "127.0.0.2")


def answered_in_the_end(port: int, source: str) -> bool:
    """Whether an address that holds connections is answered, once its answers stall that it does not take."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            return ask(port, source)[0] == 200
        time.sleep(0.5)
    return False


def test_connections_are_counted_by_address_and_in_all() -> None:
    with serving(PATIENT) as port, ExitStack() as held:
        of_one = [held.enter_context(connect(port, "127.0.0.9")) for _ in range(30)]
        assert still_open(of_one) <= PATIENT.connections_per_address
        others = [held.enter_context(connect(port, f"127.0.1.{number}")) for number in range(1, 80)]
        assert PATIENT.connections / 2 < still_open(of_one + others) <= PATIENT.connections


def still_open(sockets: list[socket.socket]) -> int:
    """How many the server has not closed, when it has had a second."""
    time.sleep(1)
    count = 0
    for raw in sockets:
        raw.setblocking(False)
        try:
            raw.recv(1)
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_machine_with_many_addresses_is_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


# ------------------------------------------------------------------------------------------ failures


def test_an_application_that_fails_is_answered_for_and_goes_on() -> None:
    with serving(PATIENT) as port:
        assert ask(port, path="/broken")[0] == 500
        assert ask(port)[0] == 200


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError(24, "Too many open files"), MemoryError])
def test_an_error_in_the_loop_ends_one_connection(error: Exception) -> None:
    failures = iter([error])

    def question(_address: str, _headers: object) -> bool:
        for failure in failures:
            raise failure
        return False

    with serving(PATIENT, must_wait=question) as port:
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port)
        assert ask(port)[0] == 200


FEW_DESCRIPTORS = """
import os, resource, sys, threading, time
from optimizer.observe.http_server import HttpServer, Limits
import test_http_server as here
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
server = HttpServer(here.application, "127.0.0.1", 0, Limits(connections=900, connections_per_address=900,
                    body_bytes=1 << 20, threads=2))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
print(server.port, flush=True)
held = []
for order in sys.stdin:
    if order == "exhaust\\n":
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
    elif order == "release\\n":
        for number in held:
            os.close(number)
        held.clear()
    print(thread.is_alive(), time.process_time(), flush=True)
"""


@pytest.mark.parametrize("exhausted_by", ["clients", "others"])
def test_without_file_descriptors_the_server_waits_and_goes_on(exhausted_by: str) -> None:
    command = [sys.executable, "-c", FEW_DESCRIPTORS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def order(word: str) -> tuple[str, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        alive, seconds = process.stdout.readline().split()
        return alive, float(seconds)

    with process, ExitStack() as held:
        port = int(process.stdout.readline())
        if exhausted_by == "others":
            order("exhaust")
        for _ in range(150):
            held.enter_context(connect(port))
        _, before = order("look")
        time.sleep(2)
        alive, after = order("look")
        assert alive == "True"
        assert after - before < 0.7  # seconds of work in two seconds: it does not ask the socket again and again
        order("release")
        held.close()
        assert ask(port)[0] == 200
        process.stdin.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Too many open files" in said
    assert "Traceback" not in said


# ----------------------------------------------------------------------------------------- passwords


@contextmanager
def guarded() -> Iterator[tuple[int, Callable[[str], str]]]:
    """(port, password -> header Authorization) of a server behind the password `right`."""
    import base64

    password = Password("right")
    inside = behind_password(application, password)
    limits = replace(PATIENT, connections_per_address=32, connections=100)
    with serving(limits, inside, may_upload=password.may_upload, must_wait=password.must_wait) as port:
        yield port, lambda text: "Basic " + base64.b64encode(f"mergetune:{text}".encode()).decode()


def test_wrong_passwords_are_slowed_and_the_right_one_still_opens() -> None:
    with guarded() as (port, header):
        _, shown = ask(port, Authorization=header("right"))
        cookie = shown["set-cookie"].partition(";")[0]
        assert ask(port, Cookie=cookie)[0] == 401  # it opens nothing
        stop, guesses = threading.Event(), itertools.count()

        def guess() -> None:
            while not stop.is_set():
                with suppress(OSError, http.client.HTTPException):
                    assert ask(port, Authorization=header(f"wrong {next(guesses)}"))[0] == 401

        threads = [threading.Thread(target=guess) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(2)
            before, begun = next(guesses), time.monotonic()
            status, _ = ask(port, Authorization=header("right"))
            waited = time.monotonic() - begun
            made = next(guesses) - before
            assert status == 200
            assert waited < 8  # seconds
            assert made < 4 * waited + 8
            for source, given in (("127.0.0.2", ""), ("127.0.0.1", f"other=1; {cookie}")):
                begun = time.monotonic()
                assert ask(port, source, Authorization=header("right"), Cookie=given)[0] == 200
                assert time.monotonic() - begun < 0.4
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_guess_at_a_cookie_is_slowed_as_well() -> None:
    clock = itertools.repeat(0.0)
    wrong = WrongPasswords(lambda: next(clock))
    for _ in range(11):
        wrong.count("10.0.0.1")
    assert wrong.slow("10.0.0.1", "")
    assert wrong.slow("10.0.0.1", "mergetune_known=AAAA")
    assert wrong.slow("10.0.0.1", 'mergetune_known=é; "')
    assert not wrong.slow("10.0.0.1", wrong.cookie.partition(";")[0])
    assert not wrong.slow("10.0.0.2", "")


def test_what_was_counted_wears_off() -> None:
    now = 0.0
    frequency = Frequency(3, 0.5, lambda: now)
    for _ in range(100):
        frequency.count("a")
    assert frequency.is_too_high("a")
    now = 5.9
    assert frequency.is_too_high("a")
    now = 6.1  # six were remembered, and half of one wears off in a second
    assert not frequency.is_too_high("a")


@pytest.mark.parametrize("given", ["", "wrong"])
def test_a_large_body_is_taken_in_only_with_the_password(given: str) -> None:
    with guarded() as (port, header):
        head = f"POST / HTTP/1.1\r\nContent-Length: {SMALL_BODY_BYTES + 1}\r\n"
        with connect(port) as raw:
            raw.sendall(f"{head}Expect: 100-continue\r\nAuthorization: {header(given)}\r\n\r\n".encode())
            said = raw.recv(1000)
            assert b" 401 " in said
            assert b"www-authenticate: basic " in said.lower()
        with connect(port) as raw:
            raw.sendall(f"{head}Authorization: {header('right')}\r\n\r\n".encode() + b"a" * (SMALL_BODY_BYTES + 1))
            assert b" 200 OK" in raw.recv(1000)


@pytest.mark.parametrize(
    "framing", ["Transfer-Encoding: chunked", "Content-Length: 1048576", "Content-Length: 9" + "0" * 30]
)
def test_a_body_of_unknown_or_too_large_a_size_is_refused_unread(framing: str) -> None:
    with serving(PATIENT) as port, connect(port) as raw:
        raw.sendall(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        status = int(raw.recv(1000).split()[1])
        assert status == (501 if "chunked" in framing else 413)
