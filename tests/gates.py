"""WSGI gates under test: an application behind them, requests, and what became of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

Gate = Callable[[Any], Any]
# What a server may put into a header or a path: bytes, each as one character.
wire = st.text(st.characters(max_codepoint=255), max_size=40)


class Inside:
    """A WSGI application that remembers what reached it."""

    def __init__(self, headers: list[tuple[str, str]] | None = None) -> None:
        self.headers = headers or []
        self.reached: list[dict[str, Any]] = []

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.reached.append(environment)
        start_response("200 OK", self.headers)
        return [b"inside"]


class Answer:
    """What a gate did with a request."""

    def __init__(self, gate: Gate, environment: dict[str, Any], inside: Inside | None = None) -> None:
        inside = inside or Inside()

        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            self.status = int(status.split()[0])
            self.names = [name.lower() for name, _ in headers]
            self.headers = {name.lower(): value for name, value in headers}

        self.body = b"".join(gate(inside)(environment, start_response))
        self.passed = bool(inside.reached)


def request(method: str = "GET", path: str = "/dashboard/", **headers: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": method, "PATH_INFO": path} | {f"HTTP_{name}": value for name, value in headers.items()}
