"""The checks in front of optuna-dashboard: a password, where requests may come from, what answers may do and cost.

Each gate takes a WSGI application and returns one that answers by itself or passes the request on. optuna-dashboard has
no users and no read-only mode, and it serves an uploaded file with the type that its name suggests: an HTML file in a
study would run with the rights of everyone who opens it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optimizer.observe.http_clients import WrongPasswords
from studies.system.passwords import read_password_file

USER = "mergetune"
PASSWORD_VARIABLE = "MERGETUNE_DASHBOARD_PASSWORD"  # noqa: S105 - the variable's name
CHALLENGE = ("WWW-Authenticate", 'Basic realm="mergetune", charset="UTF-8"')
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", ""})  # an HTTP/1.0 client names none
READING = frozenset({"GET", "HEAD"})
EXPENSIVE = re.compile(r"/api/studies/-?\d+(/param_importances|/plot/[^/]+)?|/csv/-?\d+")
PLOT_OF_PAIRS = re.compile(r"/api/studies/(-?\d+)/plot/(contour|rank)")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
RETRY_SECONDS = 5

Environment = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

EVERYWHERE: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
FRAMES_REFUSED = ("Content-Security-Policy", "frame-ancestors 'none'")  # beside the page's own policy, which stays
NO_PAGE = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
SHOWN_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "application/json", "text/plain"}
)  # nothing in these is ever run
SAVED_TYPES = frozenset({"text/csv"})  # kept as they are, but as a download; of all others not even the type is kept
PAGE_HEADERS = frozenset({"content-type", "content-disposition", "content-security-policy"})


class Password:
    """The password of a dashboard, and who guessed at it."""

    def __init__(self, password: str) -> None:
        """Keep a digest of the password.

        Raises:
            ValueError: the password is empty, which would let everyone in who knows the user's name.
        """
        if not password:
            raise ValueError("expected a password, got an empty one, which protects nothing")
        self._expected = hashlib.sha256(f"{USER}:{password}".encode()).digest()
        self.wrong = WrongPasswords()

    def opens(self, authorization: str) -> bool:
        """Return whether a header Authorization carries the password."""
        given = _credentials(authorization)
        # Digests have one length, so that comparing them takes one time.
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._expected)

    def must_wait(self, address: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request is answered in its turn, because its address gave many wrong passwords.

        The right password waits as well: otherwise an answer at once would say that a guess was right.
        """
        return self.wrong.slow(address, headers.get("COOKIE", ""))

    def may_upload(self, address: str, headers: Mapping[str, str]) -> bool:
        """Return whether a large body is taken in, which happens before a request is answered."""
        return not self.must_wait(address, headers) and self.opens(headers.get("AUTHORIZATION", ""))


def behind_password(application: Application, password: Password) -> Application:
    """Require HTTP basic authentication before anything else about a request is checked."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        authorization = str(environment.get("HTTP_AUTHORIZATION", ""))
        if not password.opens(authorization):
            if authorization:
                password.wrong.count(str(environment.get("REMOTE_ADDR", "")))
            return _refused(start_response, "401 Unauthorized", "a password is needed", CHALLENGE)
        if password.wrong.knows(str(environment.get("HTTP_COOKIE", ""))):
            return application(environment, start_response)

        def start(status: str, headers: Headers, *error: Any) -> Any:
            return start_response(status, [*headers, ("Set-Cookie", password.wrong.cookie)], *error)

        return application(environment, start)

    return gate


def _credentials(header: str) -> bytes:
    """Return `user:password` of a basic authorization header; empty if it is none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(" "), validate=True)
    except ValueError:
        return b""


def for_local_names(application: Application, host: str) -> Application:
    """Refuse requests for other host names: a web page elsewhere may point its own name at this machine.

    Without it, DNS rebinding would let any page that a user visits delete studies.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if _name_asked(environment) in LOCAL_NAMES | {host}:
            return application(environment, start_response)
        return _refused(start_response, "403 Forbidden", "ask for 127.0.0.1 or localhost")

    return gate


def for_names_in_a_network(application: Application, host: str) -> Application:
    """Refuse requests for names that a web page could have pointed at this machine, where others may ask too.

    Such a name has a dot. An address, a name without one, `host`, and this machine's own name in whatever domain are
    answered.
    """
    own = {host.lower(), socket.gethostname().lower().partition(".")[0]}

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        name = _name_asked(environment)
        if name in own or name.partition(".")[0] in own or "." not in name or _is_address(name):
            return application(environment, start_response)
        message = "ask for an address, or have this name given as the host to listen on"
        return _refused(start_response, "403 Forbidden", message)

    return gate


def _name_asked(environment: Environment) -> str:
    """Return the name in the header Host, without its port."""
    asked = str(environment.get("HTTP_HOST", "")).lower()
    return asked[1:].partition("]")[0] if asked.startswith("[") else asked.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def for_own_pages(application: Application) -> Application:
    """Refuse what pages of other sites ask for: the browser adds the password that it remembers.

    Somebody may still follow a link here.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if _from_own_page(environment) or _follows_a_link(environment):
            return application(environment, start_response)
        return _refused(start_response, "403 Forbidden", "a page of another site may ask for nothing here")

    return gate


def _from_own_page(environment: Environment) -> bool:
    """Return whether a request comes from the dashboard's own page, or from a program.

    The browser's headers say so. Programs send none of them, and no page can prevent a browser from sending them.
    """
    site = environment.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = environment.get("HTTP_ORIGIN")  # what browsers send over plain HTTP
    if origin is None:
        return True
    host = origin.partition("://")[2]
    return bool(host) and host == environment.get("HTTP_HOST")


def _follows_a_link(environment: Environment) -> bool:
    """Return whether the browser opens the answer as a page of its own: no other page sees it then."""
    return (
        environment["REQUEST_METHOD"] == "GET"
        and environment.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environment.get("HTTP_SEC_FETCH_DEST", "document") == "document"  # and no frame of another page
    )


def read_only(application: Application) -> Application:
    """Let only GET and HEAD through: optuna-dashboard changes nothing on them."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in READING:
            return application(environment, start_response)
        message = "this dashboard is read-only"
        return _refused(start_response, "405 Method Not Allowed", message, ("Allow", "GET, HEAD"))

    return gate


def for_readable_paths(application: Application) -> Application:
    """Refuse paths that optuna-dashboard sees otherwise than we do.

    It drops bytes that are not UTF-8, and its patterns allow for a line's end behind a path.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            path = environment.get("PATH_INFO", "").encode("latin-1").decode()
        except ValueError:
            return _refused(start_response, "400 Bad Request", "the path is not UTF-8")
        if CONTROL.search(path) is not None:
            return _refused(start_response, "400 Bad Request", "the path has a control character")
        return application(environment, start_response)

    return gate


def without_renaming(application: Application) -> Application:
    """Refuse to rename a study: optuna-dashboard copies it to a new one, but our tables know it by its name."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if environment.get("PATH_INFO", "").rstrip("/").endswith("/rename"):
            return _refused_in_json(start_response, "403 Forbidden", "a study of mergetune keeps its name")
        return application(environment, start_response)

    return gate


def one_expensive_at_a_time(application: Application, capacity: int) -> Application:
    """Answer requests that read all trials of a study one after the other: each may take a gigabyte, and seconds.

    Args:
        capacity: how many requests may be answered or wait; the next is asked to come again.
    """
    turn, free = threading.Lock(), threading.BoundedSemaphore(capacity)

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if EXPENSIVE.fullmatch(_path(environment)) is None:
            return application(environment, start_response)
        if not free.acquire(blocking=False):
            again = ("Retry-After", str(RETRY_SECONDS))
            return _refused_in_json(
                start_response, "503 Service Unavailable", "the dashboard is busy: try again soon", again
            )
        try:
            with turn:
                return application(environment, start_response)  # optuna-dashboard's answer is whole by then
        finally:
            free.release()

    return gate


def with_plots(application: Application, plot: Callable[[int, str], str | None]) -> Application:
    """Let `plot` draw what grows with the square of a study.

    Args:
        plot: (study id, `contour` or `rank`) -> a plotly figure as JSON; None leaves it to optuna-dashboard.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        reading = environment["REQUEST_METHOD"] in READING
        asked = PLOT_OF_PAIRS.fullmatch(_path(environment)) if reading else None
        figure = None if asked is None else plot(int(asked[1]), asked[2])
        if figure is None:
            return application(environment, start_response)
        start_response("200 OK", [("Content-Type", "application/json"), *EVERYWHERE, NO_PAGE])
        return [figure.encode()]

    return gate


def _path(environment: Environment) -> str:
    """Return the path as optuna-dashboard sees it."""
    path: str = environment.get("PATH_INFO", "")
    return path.encode("latin-1").decode(errors="ignore").rstrip("/")


def with_inert_answers(application: Application) -> Application:
    """Let no answer but the dashboard's own page run as a page: others are shown as a picture or text, or saved.

    The dashboard's files under /static/ keep their types, or its script would not run.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "")  # now: the application changes it

        def start(status: str, headers: Headers, *error: Any) -> Any:
            found = status.startswith("2")  # an error's text is nobody's file
            return start_response(status, _inert(path, headers, found=found), *error)

        return application(environment, start)

    return gate


def _inert(path: str, headers: Headers, *, found: bool) -> Headers:
    """Return an answer's headers, by what its path may answer."""
    ours = {name.lower() for name, _ in EVERYWHERE}
    # Which other sites' pages may read an answer is ours to decide.
    kept = [(n, v) for n, v in headers if n.lower() not in ours and not n.lower().startswith("access-control-")]
    if path == "/dashboard" or path.startswith("/dashboard/"):
        return [*kept, *EVERYWHERE, FRAMES_REFUSED]
    if path.startswith("/static/") or path == "/favicon.ico" or not found:
        return [*kept, *EVERYWHERE, NO_PAGE]
    by_name = {name.lower(): value for name, value in headers}
    rest = [(name, value) for name, value in kept if name.lower() not in PAGE_HEADERS]
    return [
        *rest,
        *_as_data(by_name.get("content-type", ""), by_name.get("content-disposition", "")),
        *EVERYWHERE,
        NO_PAGE,
    ]


def _as_data(content_type: str, disposition: str) -> Headers:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in SHOWN_TYPES:
        return [("Content-Type", content_type)]
    return [
        ("Content-Type", content_type if kind in SAVED_TYPES else "application/octet-stream"),
        ("Content-Disposition", disposition if disposition.lower().startswith("attachment") else "attachment"),
    ]


def _refused(start_response: StartResponse, status: str, message: str, *headers: tuple[str, str]) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), *headers, *EVERYWHERE, NO_PAGE])
    return [f"{message}\n".encode()]


def _refused_in_json(start_response: StartResponse, status: str, reason: str, *headers: tuple[str, str]) -> list[bytes]:
    """Refuse in the form of optuna-dashboard's own refusals, of which its page shows the reason."""
    start_response(status, [("Content-Type", "application/json"), *headers, *EVERYWHERE, NO_PAGE])
    return [json.dumps({"reason": reason}).encode()]


def dashboard_password(file: Path | None) -> str | None:
    """Read the password from a file's first line or from the environment; None if there is none.

    It is never taken from the command line, where others can read it.

    Raises:
        PasswordError: the file is missing, empty or not text.
    """
    if file is not None:
        return read_password_file(file)
    return os.environ.get(PASSWORD_VARIABLE, "").strip() or None
