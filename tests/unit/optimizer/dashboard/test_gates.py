"""The gates of the dashboard, as WSGI: what passes, what an answer may do, and where the password is."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from gates import Answer, Inside, request, wire
from hypothesis import example, given
from hypothesis import strategies as st

from optimizer.dashboard.gates import (
    for_readable_paths,
    read_only,
    with_inert_answers,
)
from optimizer.observe.guarded_server import PASSWORD_VARIABLE, page_password
from optimizer.observe.http_gate import EVERYWHERE

headers = st.dictionaries(
    st.sampled_from(["HTTP_HOST", "HTTP_ORIGIN", "HTTP_X_HTTP_METHOD_OVERRIDE", "HTTP_X_ORIGINAL_URL", "QUERY_STRING"]),
    wire,
)


@given(method=wire, others=headers)
@example(method="get", others={})
@example(method="POST", others={"HTTP_X_HTTP_METHOD_OVERRIDE": "GET"})
def test_read_only_lets_nothing_but_reading_through(method: str, others: dict[str, str]) -> None:
    answer = Answer(read_only, request(method) | others)
    assert answer.passed == (method in {"GET", "HEAD"})
    assert answer.passed or (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@given(raw=st.binary(max_size=20))
@example(raw=b"/csv/1\n")
@example(raw="/api/studies/é".encode())
def test_a_path_passes_where_nothing_of_it_would_be_left_out(raw: bytes) -> None:
    answer = Answer(for_readable_paths, request(path=raw.decode("latin-1")))
    text = raw.decode("utf-8", "ignore")
    controls = any(unicodedata.category(letter) == "Cc" for letter in text)
    assert answer.passed == (text.encode() == raw and not controls)


def test_the_password_is_the_files_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "not this one")
    file = tmp_path / "password"
    file.write_bytes("\ufeffpässword \r\nsecond line\n".encode())
    assert page_password(file) == "pässword"


@pytest.mark.parametrize(("value", "password"), [(None, None), ("", None), ("  ", None), ("secret", "secret")])
def test_without_a_file_the_environment_is_asked(
    value: str | None, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(PASSWORD_VARIABLE, value)
    assert page_password(None) == password


RUNNABLE = ("html", "xml", "svg", "javascript", "ecmascript", "pdf", "css", "shockwave", "wasm")


@given(
    path=wire,
    kind=wire | st.sampled_from(["text/html", "image/svg+xml", "TEXT/HTML", "text/html; image/png", " text/html"]),
    disposition=wire | st.sampled_from(["inline", "attachment; filename=a.html"]),
)
@example(path="/artifacts/1/2", kind="image/png, text/html", disposition="inline")
@example(path="/dashboard-of-others", kind="text/html", disposition="")
def test_no_answer_outside_the_page_is_a_page(path: str, kind: str, disposition: str) -> None:
    inside = Inside([("content-TYPE", kind), ("Content-Disposition", disposition), ("X-Frame-Options", "ALLOWALL"),
                     ("Access-Control-Allow-Origin", "*"), ("Content-Length", "6")])  # fmt: skip
    answer = Answer(with_inert_answers, request(path=path), inside)
    assert len(answer.names) == len(set(answer.names)) or path.startswith("/dashboard")
    for name, value in EVERYWHERE:
        assert answer.headers[name.lower()] == value
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-length"] == "6"
    if path.startswith(("/dashboard/", "/static/")) or path in {"/dashboard", "/favicon.ico"}:
        return
    assert "sandbox" in answer.headers["content-security-policy"]
    saved = answer.headers.get("content-disposition", "").lower().startswith("attachment")
    assert saved or not any(word in answer.headers["content-type"].lower().partition(";")[0] for word in RUNNABLE)


def test_the_page_keeps_its_own_policy_and_is_shown_in_no_frame() -> None:
    own = ("Content-Security-Policy", "default-src 'self'")
    told: list[tuple[str, str]] = []
    gate = with_inert_answers(Inside([("Content-Type", "text/html"), own]))
    list(gate(request(path="/dashboard/studies/1"), lambda _status, headers: told.extend(headers)))
    assert own in told
    assert ("Content-Security-Policy", "frame-ancestors 'none'") in told
    assert ("Content-Type", "text/html") in told
