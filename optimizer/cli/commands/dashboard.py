"""`mergetune dashboard`: optuna-dashboard over the study database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.commands.serving import Host, PasswordFile, Port, password_for, serve
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    console,
    database_to_change,
    database_to_read,
    escaped,
    print_error,
    stored_url,
)
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from studies.records.database import Database


def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    password_file: PasswordFile = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Allow no change or deletion from the browser.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser.")] = False,
) -> None:
    """Serve the dashboard, which shows every trial with its contact sheet, recipe, gain and timings."""
    from optimizer.cli.workers.session import patiently

    password = password_for(host, password_file, danger="the dashboard can delete studies")
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
    server = make_server(database, folder, host, port, password, changes=changes)
    begun = None if refresh is None else refresh.start
    serve(server, host, "/dashboard/", "dashboard", show=show, begun=begun)
    if refresh is not None:
        refresh.end()


def _complain(what: str, why: str) -> None:
    print_error(escaped(what), why)
