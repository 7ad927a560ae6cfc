"""What commands that serve a page have in common: who may reach it, how it is opened, and how it ends."""

from __future__ import annotations

import getpass
import ipaddress
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from basics.names import typed_path
from optimizer.cli.common import console, errors, escaped, fail

if TYPE_CHECKING:
    from optimizer.observe.http_server import HttpServer
    from optimizer.voting.questions import Questions

LOOPBACK: Final = "127.0.0.1"
VOTE_PORT: Final = 8081  # of the page of votes

Host = Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a password.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        parser=typed_path,
        metavar="FILE",
        help="File with the password on its first line; the user name is mergetune.",
        show_default=False,
    ),
]


def password_for(host: str, file: Path | None, *, danger: str) -> str | None:
    """Return the password of a page; None where it needs none, because only this machine reaches it.

    Args:
        danger: what anyone who reaches the page can do, for the message.
    """
    from optimizer.observe.guarded_server import PASSWORD_VARIABLE, page_password

    password = page_password(file)
    if password is None and not _is_loopback(host):
        fail(
            f"{host} can be reached from other machines, and anyone who reaches {danger}: give --password-file FILE or "
            f"the environment variable {PASSWORD_VARIABLE}, or leave --host at 127.0.0.1"
        )
    return password


def serve(
    server: HttpServer, host: str, path: str, title: str, *, show: bool, begun: Callable[[], None] | None = None
) -> None:
    """Print where a page is, and serve it until the process is interrupted.

    Args:
        path: of the page, from `/` on.
        show: open it in the browser.
        begun: called when its address is printed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor ends it as Ctrl-C does
    _announce(server, host, path, title, show=show)
    if begun is not None:
        begun()
    with suppress(KeyboardInterrupt):
        server.run()


@dataclass(frozen=True)
class VotingPage:
    """Where a page is served beside other work."""

    host: str
    port: int
    password: str | None
    show: bool  # open it in the browser


@contextmanager
def served(questions: Questions | None, page: VotingPage | None) -> Iterator[None]:
    """Serve a page of questions until the block ends; nothing, if there are none.

    Raises:
        StorageError: the address cannot be listened on.
    """
    if questions is None or page is None:
        yield
        return
    from optimizer.observe.guarded_server import guarded_server
    from optimizer.voting.application import LIMITS, VotePage

    server = guarded_server(VotePage(questions, own_name()), page.host, page.port, page.password, LIMITS)
    thread = threading.Thread(target=server.run, name="page of votes")
    thread.start()
    try:
        _announce(server, page.host, "/", "vote", show=page.show)
        yield
    finally:
        server.close()
        thread.join()


def own_name() -> str:
    """Return the user's name on this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no entry for its user
        return "me"


def _announce(server: HttpServer, host: str, path: str, title: str, *, show: bool) -> None:
    """Print where a page is, and open it in the browser if that is wanted."""
    address = f"[{host}]" if ":" in host else host
    page = f"http://{address}:{server.port}{path}"
    console.print(escaped(f"{title}: {page}  (Ctrl-C to stop)"), soft_wrap=True)
    if show:  # beside the server: a browser in the terminal would wait for it
        threading.Thread(target=_open_in_browser, args=(page,), name="browser", daemon=True).start()


def _open_in_browser(page: str) -> None:
    """Open a page, or say that there is no browser."""
    import webbrowser

    if not webbrowser.open(page):
        errors.print("[yellow]note:[/] no browser was found here: open the address above yourself")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
