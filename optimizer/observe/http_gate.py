"""The checks of who may ask an HTTP server of ours: a password, and where requests may come from.

Each gate takes a WSGI application and returns one that answers by itself or passes the request on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from optimizer.observe.http_clients import WrongPasswords

USER = "mergetune"
CHALLENGE = ("WWW-Authenticate", 'Basic realm="mergetune", charset="UTF-8"')
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", ""})  # an HTTP/1.0 client names none

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
NO_PAGE = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")


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
            return refused(start_response, "401 Unauthorized", "a password is needed", CHALLENGE)
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
        return refused(start_response, "403 Forbidden", "ask for 127.0.0.1 or localhost")

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
        return refused(start_response, "403 Forbidden", message)

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
        return refused(start_response, "403 Forbidden", "a page of another site may ask for nothing here")

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


def refused(start_response: StartResponse, status: str, message: str, *headers: tuple[str, str]) -> list[bytes]:
    """Answer a request that is refused, with the reason as text."""
    start_response(status, [("Content-Type", "text/plain"), *headers, *EVERYWHERE, NO_PAGE])
    return [f"{message}\n".encode()]
