"""The gates in front of the dashboard, as WSGI: what opens them, and that nothing else does."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from gates import Answer, request, wire
from hypothesis import example, given
from hypothesis import strategies as st

from optimizer.observe.http_gate import (
    USER,
    Password,
    behind_password,
    for_local_names,
    for_names_in_a_network,
    for_own_pages,
)
from studies.errors import PasswordError
from studies.system.passwords import read_password_file

PASSWORD = "correct horse: bättery"


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


def password_gate(application: Any) -> Any:
    return behind_password(application, Password(PASSWORD))


# ----------------------------------------------------------------------------------------- password


@pytest.mark.parametrize(
    "header",
    [
        basic(USER, PASSWORD),
        basic(USER, PASSWORD).replace("Basic", "bAsIc"),
        basic(USER, PASSWORD).replace(" ", "  ") + " ",
    ],
)
def test_the_right_password_opens_the_gate(header: str) -> None:
    answer = Answer(password_gate, request(AUTHORIZATION=header))
    assert (answer.status, answer.body, answer.passed) == (200, b"inside", True)


WRONG_HEADERS = [
    "",
    " ",
    "Basic",
    "Basic ",
    "Basic :",
    "Basic !!!",
    "Basic ====",
    "Basic bWVyZ2V0dW5l",  # the user name alone
    "Basic bWVyZ2V0dW5lOg==",  # and with an empty password
    "Basic \xff\xfe",  # bytes that are no base64, as a WSGI server hands them over
    basic(USER, "wrong"),
    basic("", PASSWORD),
    basic("admin", PASSWORD),
    basic(USER.upper(), PASSWORD),
    basic(USER, PASSWORD.upper()),
    basic(USER, PASSWORD + " "),
    basic(USER, PASSWORD + "\0"),
    basic(USER, PASSWORD[:-1]),
    basic(USER, PASSWORD * 5000),
    basic(USER, PASSWORD, "latin-1"),
    basic(USER, PASSWORD).replace("Basic", "Bearer"),
    basic(USER, PASSWORD).replace("Basic", "Digest"),
    basic(USER, PASSWORD).replace("Basic ", "Basic"),
    basic(USER, PASSWORD).replace("Basic ", "Basic\t"),
    basic(USER, PASSWORD).replace("Basic ", ""),
    " " + basic(USER, PASSWORD),
    f"{basic(USER, PASSWORD)}, {basic(USER, PASSWORD)}",  # a header given twice
    f"{basic(USER, 'wrong')}, {basic(USER, PASSWORD)}",
    f"Basic {USER}:{PASSWORD}",
    "Basic " + "QUFB" * 60_000,
]


@pytest.mark.parametrize("header", WRONG_HEADERS, ids=range(len(WRONG_HEADERS)))
def test_everything_else_is_asked_for_a_password(header: str) -> None:
    answer = Answer(password_gate, request(AUTHORIZATION=header))
    assert (answer.status, answer.passed) == (401, False)
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert answer.headers["x-content-type-options"] == "nosniff"


headers = st.dictionaries(
    st.sampled_from(
        ["HTTP_HOST", "HTTP_ORIGIN", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR", "HTTP_PROXY_AUTHORIZATION",
         "HTTP_X_AUTHORIZATION", "HTTP_X_HTTP_METHOD_OVERRIDE", "HTTP_X_ORIGINAL_URL", "REMOTE_USER", "QUERY_STRING",
         "SCRIPT_NAME", "AUTH_TYPE", "CONTENT_LENGTH", "REMOTE_ADDR"]
    ),
    st.one_of(wire, st.sampled_from([USER, basic(USER, PASSWORD), "127.0.0.1", "/dashboard"])),
)  # fmt: skip
authorizations = st.one_of(
    wire, wire.map(lambda text: f"Basic {text}"), st.binary().map(lambda raw: f"Basic {base64.b64encode(raw).decode()}")
)


def opens(header: object) -> bool:
    """Whether a header carries the password, worked out another way: by writing down what may be sent."""
    scheme, *rest = str(header).split(" ")
    return scheme.lower() == "basic" and "".join(rest) == basic(USER, PASSWORD).removeprefix("Basic ")


@given(method=wire, path=wire, others=headers, header=st.none() | authorizations)
@example(method="GET", path="/static/../api/studies", others={}, header=None)
@example(method="OPTIONS", path="*", others={"HTTP_ORIGIN": "null"}, header=None)
def test_no_request_without_the_password_passes(
    method: str, path: str, others: dict[str, str], header: str | None
) -> None:
    environment = request(method, path) | others
    if header is not None:
        environment["HTTP_AUTHORIZATION"] = header
    before = dict(environment)
    answer = Answer(password_gate, environment)
    assert answer.passed == opens(header)
    assert answer.passed or answer.status == 401
    assert environment == before


@given(password=st.text(min_size=1), other=st.text())
def test_a_password_opens_its_own_gate_and_no_other(password: str, other: str) -> None:
    try:
        header = basic(USER, other)
        password.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no file in UTF-8 holds
        return
    answer = Answer(lambda inside: behind_password(inside, Password(password)), request(AUTHORIZATION=header))
    assert answer.passed == (password == other)


def test_an_empty_password_is_no_gate() -> None:
    with pytest.raises(ValueError, match="empty"):
        Password("")


# ------------------------------------------------------------------------------- where passwords are


@pytest.mark.parametrize("content", [b"", b"\n", b"  \nsecret\n", b"\xff\xfe\x00"])
def test_a_password_file_without_a_password_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(PasswordError, match="first line"):
        read_password_file(file)


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(PasswordError, match=f"{path} cannot be read"):
            read_password_file(path)


# --------------------------------------------------------------------------------------- the others


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:80", True),
        ("", True),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("[evil.example]", False),
    ],
)
def test_without_a_password_only_local_names_are_answered(asked: str, passes: bool) -> None:
    answer = Answer(lambda inside: for_local_names(inside, "127.0.0.1"), request(HOST=asked))
    assert answer.passed == passes
    assert answer.status == (200 if passes else 403)


@given(origin=wire, host=wire)
@example(origin="", host="")
@example(origin="127.0.0.1", host="127.0.0.1")
def test_a_change_passes_only_from_the_host_itself(origin: str, host: str) -> None:
    answer = Answer(for_own_pages, request("POST", HOST=host, ORIGIN=f"http://{origin}"))
    assert answer.passed == (origin == host != "")
    assert not Answer(for_own_pages, request("POST", HOST=host, ORIGIN="null")).passed


@given(
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "DELETE"]),
    site=st.sampled_from(["same-origin", "none", "cross-site", "same-site", "", "Cross-Site"]),
    mode=st.sampled_from(["navigate", "cors", "no-cors", "same-origin", "websocket", ""]),
    dest=st.sampled_from(["document", "iframe", "image", "script", "empty", "object"]),
)
def test_other_sites_may_send_people_here_and_nothing_else(method: str, site: str, mode: str, dest: str) -> None:
    environment = request(method, SEC_FETCH_SITE=site, SEC_FETCH_MODE=mode, SEC_FETCH_DEST=dest)
    link = method == "GET" and (mode, dest) == ("navigate", "document")
    assert Answer(for_own_pages, environment).passed == (site in {"same-origin", "none"} or link)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_browser_that_says_only_where_a_page_is_from_is_refused_too(method: str) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8081"):
        assert not Answer(for_own_pages, request(method, HOST="127.0.0.1:8080", ORIGIN=origin)).passed
    assert Answer(for_own_pages, request(method, HOST="127.0.0.1:8080", ORIGIN="http://127.0.0.1:8080")).passed
    assert Answer(for_own_pages, request(method, HOST="127.0.0.1:8080")).passed


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ("10.1.2.3:9464", True),
        ("[fe80::1]:9464", True),
        ("worker:9464", True),
        ("gpu1.lan.example:9464", True),
        ("GPU1.lan.example", True),
        ("", True),
        ("evil.example:9464", False),
        ("10.1.2.3.evil.example:9464", False),
        ("gpu1.lan.example.evil.example", False),
        ("gpu2.lan.example", False),
        ("localhost.", False),
    ],
)
def test_in_a_network_only_names_that_no_page_can_have_made_are_answered(asked: str, passes: bool) -> None:
    answer = Answer(lambda inside: for_names_in_a_network(inside, "gpu1.lan.example"), request(HOST=asked))
    assert (answer.passed, answer.status) == (passes, 200 if passes else 403)
