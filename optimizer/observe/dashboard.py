"""optuna-dashboard in this process: cached storage, our artifacts, and our gates in front of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import optuna_dashboard
from optuna.storages import get_storage
from waitress import wasyncore
from waitress.server import create_server

from optimizer.errors import StorageError
from optimizer.observe.http_gate import (
    Application,
    behind_password,
    for_local_names,
    for_own_pages,
    for_readable_paths,
    one_expensive_at_a_time,
    read_only,
    with_inert_answers,
    with_plots,
    without_renaming,
)
from optimizer.observe.pareto_front import hasten_pareto_fronts
from optimizer.observe.plot_excerpts import excerpt_plot
from studies.files.artifacts import Artifacts
from studies.records.database import Database

THREADS = 8
MAX_UPLOAD_BYTES = 16 << 20  # waitress reads a whole request before its password is checked


def make_server(
    database: Database,
    artifacts: Artifacts,
    host: str,
    port: int,
    password: str | None,
    *,
    changes: bool = True,
) -> Any:
    """Return a waitress server that is ready to run; `listening_port` says where it listens.

    Args:
        changes: whether the browser may change anything.

    Raises:
        StorageError: the address cannot be listened on.
    """
    # Optuna wraps a plain RDB storage in its cache: the study page of a long study loads several times faster.
    storage = get_storage(database.storage)
    hasten_pareto_fronts()
    dashboard: Application = optuna_dashboard.wsgi(storage, artifact_store=artifacts.for_optuna)
    dashboard = one_expensive_at_a_time(with_plots(dashboard, partial(excerpt_plot, storage)), THREADS // 2)
    dashboard = for_own_pages(for_readable_paths(without_renaming(with_inert_answers(dashboard))))
    if not changes:
        dashboard = read_only(dashboard)
    # The last gate is the first that a request meets.
    guarded = for_local_names(dashboard, host) if password is None else behind_password(dashboard, password)
    # A name may stand for an address of each family, and port 0 would then be two ports.
    address = "127.0.0.1" if host == "localhost" else host
    sockets: dict[int, Any] = {}
    try:
        return create_server(
            guarded,
            sockets,
            host=address,
            port=port,
            threads=THREADS,
            ident="mergetune",
            max_request_body_size=MAX_UPLOAD_BYTES,
        )
    except OSError as error:
        wasyncore.close_all(sockets)
        raise StorageError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from error
    except ValueError as error:  # what waitress raises for a name that cannot be resolved
        raise StorageError(f"cannot listen on {host}:{port}: no such address on this machine") from error


def listening_port(server: Any) -> int:
    """Return the port on which a server of `make_server` listens."""
    addresses = getattr(server, "effective_listen", None)  # of a host name with several addresses
    return int(addresses[0][1] if addresses else server.effective_port)
