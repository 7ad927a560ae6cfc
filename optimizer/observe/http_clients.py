"""Who asks over HTTP, and who has asked too often of late."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final

MOST_CLIENTS: Final = 10_000  # that are remembered at a time
COOKIE: Final = "mergetune_known"


def client_of(address: str) -> str:
    """Return whom an address counts as: itself, or its /64 network if it is IPv6, where one machine has all of them."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


class Frequency:
    """How often each client did something of late.

    Each time counts one, and what was counted wears off evenly. Safe to use from several threads.
    """

    def __init__(self, allowed: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count.

        Args:
            allowed: times at once that are not too many; twice as many is the most that is remembered.
            per_second: times that wear off in a second.
            clock: gives seconds.
        """
        self._allowed, self._per_second, self._clock = allowed, per_second, clock
        self._counts: dict[str, tuple[float, float]] = {}  # client -> count, and as of when; the oldest first
        self._lock = threading.Lock()

    def count(self, address: str) -> None:
        """Count once for an address."""
        client, now = client_of(address), self._clock()
        with self._lock:
            count = min(self._left(client, now) + 1, 2 * self._allowed)
            self._counts.pop(client, None)
            self._counts[client] = (count, now)
            if len(self._counts) > MOST_CLIENTS:
                del self._counts[next(iter(self._counts))]

    def is_too_high(self, address: str) -> bool:
        """Return whether an address did it more often than is allowed."""
        with self._lock:
            return self._left(client_of(address), self._clock()) > self._allowed

    def _left(self, client: str, now: float) -> float:
        count, since = self._counts.get(client, (0.0, now))
        return max(0.0, count - (now - since) * self._per_second)


class WrongPasswords(Frequency):
    """Wrong passwords by address, and who is not slowed for those of others at the same address.

    Whoever once gave the right password keeps a cookie. It opens nothing: it only says that this is not who guesses.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(allowed=10, per_second=0.2, clock=clock)
        self._token = secrets.token_urlsafe(18)

    @property
    def cookie(self) -> str:
        """The value of Set-Cookie for those who gave the right password."""
        return f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, cookies: str) -> bool:
        """Return whether a request with this header Cookie comes from somebody who gave the right password before."""
        try:
            given = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        return given is not None and hmac.compare_digest(given.value.encode(), self._token.encode())

    def slow(self, address: str, cookies: str) -> bool:
        """Return whether a request has to wait for its turn, whatever password it has."""
        return self.is_too_high(address) and not self.knows(cookies)
