"""optuna-dashboard's page in a narrow window: it lays two columns side by side at any width, and clips what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from optimizer.observe.http_gate import Application, Environment, Headers, StartResponse

PAGE = "/dashboard"  # every path below it is answered with the one page
END_OF_HEAD = b"</head>"
STYLE = b"""<style>
@media (max-width: 800px) {
  main { min-width: 0; }
  main .MuiGrid-container { padding: 0 !important; margin-left: 0 !important; width: 100% !important; }
  main .MuiGrid-container > .MuiGrid-item { padding-left: 0 !important; }
  main .MuiCardContent-root { padding: 8px 4px; }
  main .MuiTypography-h3 { font-size: 1.5rem; }
  main [class*="MuiGrid-grid-xs-"] { flex-basis: 100% !important; max-width: 100% !important; }
  main .MuiCard-root { max-width: 100%; box-sizing: border-box; }
  main .MuiContainer-root .MuiCard-root { max-width: calc(100% - 32px); }
  main .MuiCardContent-root > .MuiBox-root { flex-wrap: wrap; }
  main .MuiBox-root:has(> .MuiBox-root > .MuiList-root) { flex-direction: column; }
  main .MuiBox-root:has(> .MuiList-root) { max-height: 30vh; flex-shrink: 0; }
  main .MuiBox-root:has(> .MuiList-root) ~ .MuiBox-root { min-height: 0; flex-grow: 1; }
}
</style>"""
OF_THE_FILE = frozenset({"HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_RANGE"})
NOT_OURS = frozenset({"etag", "last-modified", "accept-ranges"})  # of the file as it was


def with_narrow_pages(application: Application) -> Application:
    """Give the page a style of ours for narrow windows, in which columns stand below each other."""

    def gate(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if not str(environment.get("PATH_INFO", "")).startswith(PAGE):
            return application(environment, start_response)
        asked = {name: value for name, value in environment.items() if name not in OF_THE_FILE}
        answer: list[tuple[str, Headers, tuple[Any, ...]]] = []
        body = application(asked, _keeping(answer))
        page = b"".join(body)
        if callable(close := getattr(body, "close", None)):
            close()
        status, headers, error = answer[-1]
        if _is_page(status, headers):
            page = page.replace(END_OF_HEAD, STYLE + END_OF_HEAD, 1)
            headers = [(name, value) for name, value in headers if name.lower() not in NOT_OURS]
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(page))))
        start_response(status, headers, *error)
        return [page]

    return gate


def _keeping(answer: list[tuple[str, Headers, tuple[Any, ...]]]) -> Callable[..., Any]:
    """Return a `start_response` that only keeps what it is given."""

    def start(status: str, headers: Headers, *error: Any) -> Any:
        answer.append((status, list(headers), error))
        return lambda _: None

    return start


def _is_page(status: str, headers: Headers) -> bool:
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return status.startswith("200") and any(kind.startswith("text/html") for kind in kinds)
