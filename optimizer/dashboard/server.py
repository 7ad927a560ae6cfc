"""optuna-dashboard in this process: cached storage, our artifacts, and our gates in front of it."""

from __future__ import annotations

from functools import partial

import optuna_dashboard

from optimizer.dashboard.figure_order import put_figures_in_order
from optimizer.dashboard.gates import (
    for_readable_paths,
    one_expensive_at_a_time,
    read_only,
    with_inert_answers,
    with_plots,
    without_renaming,
)
from optimizer.dashboard.narrow_pages import with_narrow_pages
from optimizer.dashboard.pareto_front import hasten_pareto_fronts
from optimizer.dashboard.plot_excerpts import excerpt_plot
from optimizer.dashboard.storage import DashboardStorage
from optimizer.observe.guarded_server import guarded_server
from optimizer.observe.http_gate import Application
from optimizer.observe.http_server import HttpServer, Limits
from studies.files.artifacts import Artifacts
from studies.records.database import Database

MAX_UPLOAD_BYTES = 16 << 20
LIMITS = Limits(connections=100, connections_per_address=32, body_bytes=MAX_UPLOAD_BYTES, threads=8)


def make_server(
    database: Database,
    artifacts: Artifacts,
    host: str,
    port: int,
    password: str | None,
    *,
    changes: bool = True,
    limits: Limits = LIMITS,
) -> HttpServer:
    """Return a server that listens and is ready to run.

    Args:
        changes: whether the browser may change anything.
        limits: what clients may take of the server, whether they know the password or not.

    Raises:
        StorageError: the address cannot be listened on.
    """
    storage = DashboardStorage(database)  # with Optuna's cache, a long study's page loads several times faster
    hasten_pareto_fronts()
    put_figures_in_order()
    dashboard: Application = optuna_dashboard.wsgi(storage, artifact_store=artifacts.for_optuna)
    dashboard = one_expensive_at_a_time(with_plots(dashboard, partial(excerpt_plot, storage)), limits.threads // 2)
    dashboard = with_narrow_pages(dashboard)
    dashboard = for_readable_paths(without_renaming(with_inert_answers(dashboard)))
    if not changes:
        dashboard = read_only(dashboard)
    return guarded_server(dashboard, host, port, password, limits)
