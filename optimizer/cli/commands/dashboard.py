"""`mergetune dashboard`: optuna-dashboard over the study database."""

from __future__ import annotations

import ipaddress
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import typed_path
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    console,
    database_to_change,
    database_to_read,
    errors,
    escaped,
    fail,
    print_error,
    stored_url,
)
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from studies.records.database import Database


def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8080,
    password_file: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path,
            metavar="FILE",
            help="File with the password on its first line; the user name is mergetune.",
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Allow no change or deletion from the browser.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser.")] = False,
) -> None:
    """Serve the dashboard, which shows every trial with its contact sheet, recipe, gain and timings."""
    from optimizer.cli.workers.session import patiently
    from optimizer.dashboard.gates import PASSWORD_VARIABLE, dashboard_password

    password = dashboard_password(password_file)
    if password is None and not _is_loopback(host):
        fail(
            f"{host} can be reached from other machines, and anyone who reaches the dashboard can delete studies: give "
            f"--password-file FILE or the environment variable {PASSWORD_VARIABLE}, or leave --host at 127.0.0.1"
        )
    url = stored_url(storage)
    database = patiently(lambda: database_to_read(url) if read_only else database_to_change(url))
    _serve(database, artifacts, host, port, password, changes=not read_only, show=show)


def _serve(
    database: Database,
    artifacts: str | None,
    host: str,
    port: int,
    password: str | None,
    *,
    changes: bool,
    show: bool,
) -> None:
    from optimizer.dashboard.page_refresh import PageRefresh
    from optimizer.dashboard.server import make_server
    from studies.files.artifacts import Artifacts

    folder = (Artifacts.beside if changes else Artifacts.existing)(database.url, artifacts)
    # A dashboard that changes nothing shows the figures and notes that workers made.
    refresh = PageRefresh(database, folder, _complain) if changes else None
    if refresh is not None:
        with console.status("drawing the figures of each study"):
            refresh.refresh()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor ends it as Ctrl-C does
    server = make_server(database, folder, host, port, password, changes=changes)
    address = f"[{host}]" if ":" in host else host
    page = f"http://{address}:{server.port}/dashboard/"
    console.print(escaped(f"dashboard: {page}  (Ctrl-C to stop)"), soft_wrap=True)
    if show:
        _open_in_browser(page)
    if refresh is not None:
        refresh.start()
    with suppress(KeyboardInterrupt):
        server.run()
    if refresh is not None:
        refresh.end()


def _complain(what: str, why: str) -> None:
    print_error(escaped(what), why)


def _open_in_browser(page: str) -> None:
    """Open a page that is served in a moment; the server's socket takes the browser's request already."""
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
