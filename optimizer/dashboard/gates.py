"""The checks of what a request to optuna-dashboard may do and cost, and of what its answers may do.

optuna-dashboard has no read-only mode, and it serves an uploaded file with the type that its name suggests: an HTML
file in a study would run with the rights of everyone who opens it. Who may ask at all is checked in
`optimizer/observe/http_gate.py`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from optimizer.observe.http_gate import EVERYWHERE, NO_PAGE, Application, Environment, Headers, StartResponse, refused

READING = frozenset({"GET", "HEAD"})
EXPENSIVE = re.compile(r"/api/studies/-?\d+(/param_importances|/plot/[^/]+)?|/csv/-?\d+")
PLOT_OF_PAIRS = re.compile(r"/api/studies/(-?\d+)/plot/(contour|rank)")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
RETRY_SECONDS = 5

FRAMES_REFUSED = ("Content-Security-Policy", "frame-ancestors 'none'")  # beside the page's own policy, which stays
SHOWN_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "application/json", "text/plain"}
)  # nothing in these is ever run
SAVED_TYPES = frozenset({"text/csv"})  # kept as they are, but as a download; of all others not even the type is kept
PAGE_HEADERS = frozenset({"content-type", "content-disposition", "content-security-policy"})


def read_only(application: Application) -> Application:
    """Let only GET and HEAD through: optuna-dashboard changes nothing on them."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in READING:
            return application(environment, start_response)
        message = "this dashboard is read-only"
        return refused(start_response, "405 Method Not Allowed", message, ("Allow", "GET, HEAD"))

    return gate


def for_readable_paths(application: Application) -> Application:
    """Refuse paths that optuna-dashboard sees otherwise than we do.

    It drops bytes that are not UTF-8, and its patterns allow for a line's end behind a path.
    """

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            path = environment.get("PATH_INFO", "").encode("latin-1").decode()
        except ValueError:
            return refused(start_response, "400 Bad Request", "the path is not UTF-8")
        if CONTROL.search(path) is not None:
            return refused(start_response, "400 Bad Request", "the path has a control character")
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


def _refused_in_json(start_response: StartResponse, status: str, reason: str, *headers: tuple[str, str]) -> list[bytes]:
    """Refuse in the form of optuna-dashboard's own refusals, of which its page shows the reason."""
    start_response(status, [("Content-Type", "application/json"), *headers, *EVERYWHERE, NO_PAGE])
    return [json.dumps({"reason": reason}).encode()]
