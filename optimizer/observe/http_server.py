"""A waitress server that no client can fill up: that of the dashboard, and of a worker's metrics.

Waitress reads a whole request in one thread before a thread of its pool answers it, and bounds how long requests are.
Added here are limits of connections, of all and of each address, and of the time for the whole of a request and for
taking the answer. A new client is always let in, and the connection that does least goes instead: whoever fills the
server with slow connections pushes out their own.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Final

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, TransferEncodingNotImplemented
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher
from waitress.utilities import Error

from optimizer.observe.http_clients import client_of
from optimizer.observe.http_gate import CHALLENGE

LOGGER = logging.getLogger(__name__)

LOOK_SECONDS: Final = (
    0.5  # between two looks at what is overdue; of those who wait for a turn, each client has one a look
)
PAUSE_SECONDS: Final = 1.0  # without a new connection, after there was no file descriptor for one
STALL_SECONDS: Final = 2.0  # after which an answer that nobody takes makes room for others
SMALL_BODY_BYTES: Final = 64 << 10  # taken in from everybody
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# (address, headers by names such as COOKIE and USER_AGENT) -> an answer about a request that is not yet answered
Question = Callable[[str, Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take of a server."""

    connections: int
    connections_per_address: int
    body_bytes: int  # a request with as many or more is refused
    threads: int  # that answer requests
    head_bytes: int = 16 << 10  # of request line and headers
    head_seconds: float = 10  # from connecting to the end of the headers
    keep_alive_seconds: float = 30  # from an answer to the end of the next request's headers
    body_seconds: float = 120  # for the whole body
    requests_per_connection: int = 1000
    answer_seconds: float = 20  # in each such time a client takes `answer_bytes_per_second`, or all that there is
    answer_bytes_per_second: int = 4 << 10


class ExchangePhase(IntEnum):
    """What a connection does; the first of them is the first that goes if there are too many."""

    ASKS = 0  # or is silent
    UPLOADS = 1
    WAITS = 2  # for its turn, after too many of its address
    TAKES = 3  # its answer
    IS_ANSWERED = 4


class _PasswordNeededError(Error):  # type: ignore[misc]
    """The answer to a large body that is not taken in."""

    code = 401
    reason = "Unauthorized"

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return status, headers and body."""
        status, headers, body = super().to_response(ident)
        return status, [*headers, CHALLENGE], body


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """A request whose large body is taken in only if its headers allow it."""

    completed: bool

    def __init__(self, adjustments: Adjustments, may_upload: Callable[[Mapping[str, str]], bool]) -> None:
        super().__init__(adjustments)
        self._may_upload = may_upload

    def parse_header(self, header_plus: bytes) -> None:
        """Parse request line and headers.

        Raises:
            TransferEncodingNotImplemented: the body's size is not told.
        """
        super().parse_header(header_plus)
        self.expect_continue = False  # "100 Continue" would tell right passwords from wrong ones
        if self.chunked:
            raise TransferEncodingNotImplemented("a body needs Content-Length")

    def received(self, data: bytes) -> int:
        """Take bytes in; return how many belonged to this request."""
        in_head = not self.headers_finished
        consumed: int = super().received(data)
        if in_head and self.headers_finished and not self.completed:
            large = self.content_length > SMALL_BODY_BYTES
            if large and not self._may_upload(self.headers):
                self.error = _PasswordNeededError("a password is needed to send as much")
                self.completed = True
        return consumed


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when it does what it does."""

    def __init__(
        self,
        server: _Listener,
        sock: Any,
        addr: Any,
        adj: Adjustments,
        map: dict[int, Any] | None = None,  # noqa: A002
    ) -> None:
        super().__init__(server, sock, addr, adj, map=map)
        self.parser_class = partial(_Request, may_upload=partial(server.may_upload, addr[0]))
        self.client = client_of(addr[0])
        self.requests_begun = 0
        self.held = False
        self.since = self._moved_at = time.monotonic()
        self._sent = self._sent_before = 0  # bytes
        self._doing: tuple[ExchangePhase, int] = (ExchangePhase.ASKS, 0)

    @property
    def phase(self) -> ExchangePhase:
        """What the connection does now."""
        if self.held:
            return ExchangePhase.WAITS
        if self.total_outbufs_len:
            return ExchangePhase.TAKES
        if self.requests:
            return ExchangePhase.IS_ANSWERED
        request = self.request
        return ExchangePhase.UPLOADS if request is not None and request.headers_finished else ExchangePhase.ASKS

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send some of the bytes; return how many."""
        sent: int = super().send(data, do_close)
        if sent:
            self._sent += sent
            self._moved_at = time.monotonic()
        return sent

    def wait_longer(self, seconds: float) -> None:
        """Give the client some more time, for which it was not looked at."""
        self.since += seconds
        self._moved_at += seconds

    def may_go(self, now: float) -> bool:
        """Return whether the connection may make room for another."""
        phase = self.phase
        return phase < ExchangePhase.TAKES or (phase is ExchangePhase.TAKES and now - self._moved_at > STALL_SECONDS)

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """Return whether the client has had all its time for what it does."""
        doing = (self.phase, self.requests_begun)
        if doing != self._doing:
            self._doing, self.since, self._sent_before = doing, now, self._sent
        spent = now - self.since
        match doing:
            case (ExchangePhase.ASKS, 0):
                return spent > limits.head_seconds
            case (ExchangePhase.ASKS, _):
                return spent > limits.keep_alive_seconds
            case (ExchangePhase.UPLOADS, _):
                return spent > limits.body_seconds
            case (ExchangePhase.TAKES, _) if spent > limits.answer_seconds:
                taken, self._sent_before, self.since = self._sent - self._sent_before, self._sent, now
                return taken < spent * limits.answer_bytes_per_second
        return False


class _Listener(TcpWSGIServer):  # type: ignore[misc]
    """A listening socket that bounds its connections. All of it but `add_task` runs in the thread of the loop."""

    channel_class = _Connection

    def __init__(
        self, *arguments: Any, limits: Limits, may_upload: Question, must_wait: Question, **adjusted: Any
    ) -> None:
        self.may_upload = may_upload
        self._limits, self._must_wait = limits, must_wait
        self._waiting: deque[_Connection] = deque()
        self._waiting_lock = threading.Lock()
        self._next_look = self._paused_until = time.monotonic()
        self._exhausted = False
        super().__init__(*arguments, **adjusted)

    def readable(self) -> bool:
        """Return whether a new connection is wanted, after a look at those that there are."""
        now = time.monotonic()
        if now >= self._next_look:
            late, self._next_look = now - self._next_look, now + LOOK_SECONDS
            for connection in self._connections():
                connection.wait_longer(late)  # a worker that loads its models may hold this thread up for seconds
                if connection.is_overdue(now, self._limits):
                    connection.will_close = True
            self._give_turns()
        return bool(self.accepting) and now >= self._paused_until and self._is_open(now)

    def handle_accept(self) -> None:
        """Take a new connection, and let another go for it if there are too many."""
        try:
            accepted = self.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._pause(error)
            return
        self._exhausted = False
        if accepted is None:  # it is gone already
            return
        connection, address = accepted
        try:
            if not self._has_room(client_of(address[0])):
                connection.close()
                return
            self.set_socket_options(connection)
            self.channel_class(self, connection, address, self.adj, map=self._map)
        except OSError:  # it is gone by now
            connection.close()

    def add_task(self, task: _Connection) -> None:
        """Have a connection's next request answered, now or in its turn."""
        request = task.requests[0]
        task.requests_begun += 1
        if task.requests_begun >= self._limits.requests_per_connection:
            request.headers["CONNECTION"] = "close"
        if not self._must_wait(task.addr[0], request.headers):
            super().add_task(task)
            return
        task.held = True
        with self._waiting_lock:
            self._waiting.append(task)

    def handle_error(self) -> None:
        """Log what went wrong. Waitress would close the socket, and nobody could connect any more."""
        LOGGER.warning("a connection could not be taken", exc_info=LOGGER.isEnabledFor(logging.DEBUG))
        self._paused_until = time.monotonic() + PAUSE_SECONDS

    def pull_trigger(self) -> None:
        """Wake the loop up, if it still runs."""
        try:
            super().pull_trigger()
        except OSError:
            LOGGER.debug("an answer ended after its server")

    def _connections(self) -> list[_Connection]:
        """Return the connections that stay, of all listeners of this server."""
        return [one for one in list(self._map.values()) if isinstance(one, _Connection) and not one.will_close]

    def _is_open(self, now: float) -> bool:
        """Return whether there is room, or some connection that may go."""
        connections = self._connections()
        return len(connections) < self._limits.connections or any(one.may_go(now) for one in connections)

    def _has_room(self, client: str) -> bool:
        """Return whether a client may have one more connection, after letting another go if need be."""
        connections = self._connections()
        by_client = Counter(connection.client for connection in connections)
        if by_client[client] >= self._limits.connections_per_address:
            return _let_one_go([connection for connection in connections if connection.client == client])
        if len(connections) < self._limits.connections:
            return True
        crowd = by_client.most_common(1)[0][0]
        return _let_one_go([one for one in connections if one.client == crowd]) or _let_one_go(connections)

    def _give_turns(self) -> None:
        """Have one request of each client answered that waits, and forget those whose connection is gone."""
        with self._waiting_lock:
            waiting, self._waiting = self._waiting, deque()
            served: set[str] = set()
            for connection in waiting:
                if not connection.connected or connection.will_close:
                    continue
                if connection.client in served:
                    self._waiting.append(connection)
                else:
                    served.add(connection.client)
                    connection.held = False
                    super().add_task(connection)

    def _pause(self, error: OSError) -> None:
        """Take no connection for a while: asking the socket again at once, and again, would take a whole core."""
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        _let_one_go(self._connections())
        if not self._exhausted:
            self._exhausted = True
            LOGGER.warning("new connections to %s have to wait: %s", self.effective_port, error.strerror)


def _let_one_go(connections: Sequence[_Connection]) -> bool:
    """Close the connection that does least; return whether there is one that may go."""
    now = time.monotonic()
    going = [connection for connection in connections if connection.may_go(now)]
    if not going:
        return False
    # Of those that wait for their turn any may go: a rule would tell an attacker how to outlast the others.
    first = min(
        going,
        key=lambda one: (one.phase, random.random() if one.held else one.since),  # noqa: S311 - no secret
    )
    first.will_close = True
    return True


class HttpServer:
    """Serves a WSGI application at one address, in the thread that calls `run`, until `close`."""

    def __init__(
        self,
        application: Callable[..., Any],
        host: str,
        port: int,
        limits: Limits,
        *,
        may_upload: Question = lambda _address, _headers: True,
        must_wait: Question = lambda _address, _headers: False,
    ) -> None:
        """Listen at an address.

        Args:
            application: what answers requests, in `limits.threads` threads.
            host: a name or address of this machine.
            port: 0 for any free one.
            limits: what clients may take of the server.
            may_upload: whether a body of more than SMALL_BODY_BYTES is taken in.
            must_wait: whether a request is answered in its turn; each client has one in LOOK_SECONDS.

        Raises:
            OSError: the address cannot be listened on.
            ValueError: the host is no name or address.
        """
        # A name may stand for an address of each family, and port 0 would then be two ports.
        adjustments = Adjustments(
            host="127.0.0.1" if host == "localhost" else host,
            port=port,
            threads=limits.threads,
            ident="mergetune",
            max_request_header_size=limits.head_bytes,
            max_request_body_size=limits.body_bytes,
            outbuf_high_watermark=1 << 30,  # bytes, in a file: no thread waits for a client to take its answer
            log_socket_errors=False,
        )
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is no news to whoever works here
        self._sockets: dict[int, Any] = {}
        self._closing = threading.Event()
        self._dispatcher = ThreadedTaskDispatcher()
        try:
            self._listeners = [
                _Listener(
                    application,
                    self._sockets,
                    dispatcher=self._dispatcher,
                    adj=adjustments,
                    sockinfo=info,
                    limits=limits,
                    may_upload=may_upload,
                    must_wait=must_wait,
                )
                for info in adjustments.listen
            ]
            self._dispatcher.set_thread_count(limits.threads)
        except BaseException:
            wasyncore.close_all(self._sockets)
            raise

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listeners[0].effective_port)

    def run(self) -> None:
        """Serve until `close` is called, or this thread is interrupted."""
        try:
            while not self._closing.is_set():
                self._serve_once()
        finally:
            self._dispatcher.shutdown()
            for connection in [one for one in self._sockets.values() if isinstance(one, _Connection)]:
                connection.handle_close()  # with what is buffered for it, which close_all leaves open
            wasyncore.close_all(self._sockets, ignore_all=True)

    def close(self) -> None:
        """Have `run` end, from any thread."""
        self._closing.set()
        for listener in self._listeners:
            listener.pull_trigger()

    def _close_cut_off(self) -> None:
        """Close connections that are cut off.

        Waitress itself does it when the client takes something, which it may never do. Within a round of the loop it
        would be too early: a new connection may get the descriptor, and be closed for what was seen of the old one.
        """
        for connection in [one for one in self._sockets.values() if isinstance(one, _Connection) and one.will_close]:
            connection.handle_close()

    def _serve_once(self) -> None:
        try:
            self._close_cut_off()
            # select() knows no file descriptors above 1023, and a worker may have opened as many.
            wasyncore.loop(timeout=LOOK_SECONDS, use_poll=True, map=self._sockets, count=1)
        except Exception as error:  # noqa: BLE001 - whatever a request brought about, the others are served
            LOGGER.warning("serving HTTP failed, and goes on: %s: %s", type(error).__name__, error)
            self._closing.wait(PAUSE_SECONDS)
