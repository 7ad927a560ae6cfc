"""The figures of a study for optuna-dashboard, which would show them in another order each time it is started."""

from __future__ import annotations

from typing import Any

import optuna_dashboard._app as dashboard_app
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects


def put_figures_in_order() -> None:
    """Let optuna-dashboard show figures in the order of their names, in this process."""
    dashboard_app.get_plotly_graph_objects = figures_in_order


def figures_in_order(system_attrs: dict[str, Any]) -> dict[str, str]:
    """Return name -> figure as JSON, by name."""
    return dict(sorted(get_plotly_graph_objects(system_attrs).items()))
