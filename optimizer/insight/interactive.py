"""Plotly figures of a study, stored in it for optuna-dashboard."""

from __future__ import annotations

import logging
import math
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from optuna_dashboard import save_plotly_graph_object

from basics.messages import counted
from optimizer.errors import TooFewTrialsError
from optimizer.insight.importance import BINS, Findings, Insight, insight
from optimizer.insight.plots import (
    BOX,
    COLOURS,
    DARK,
    REACH,
    Picture,
    best_so_far,
    groups_of,
    label_of,
    picture_of,
    spots,
)
from optimizer.trial.objective import Objective
from studies.records.optuna_studies import optuna_study
from studies.records.study_records import StudyRecords

if TYPE_CHECKING:
    import plotly.graph_objects as go

_log = logging.getLogger(__name__)

COLUMNS: Final = 6  # main effects in a row
BAR: Final = "#6b5b95"
MODEL: Final = "#2a9d8f"


def save_figures(records: StudyRecords, objective: Objective) -> int:
    """Store the study's figures for the dashboard, replacing earlier ones; returns their number.

    It is 0 if the study has too few trials or plotly is not installed.
    """
    if not _can_draw():
        return 0
    try:
        facts = insight(records, objective)
    except TooFewTrialsError:
        return 0
    in_optuna = optuna_study(records)
    count = 0
    for index, findings in enumerate(facts.findings):
        figures = {
            "unet": unet_figure(facts, findings),
            "progress": progress_figure(facts, findings),
            "effects": effects_figure(facts, findings),
        }
        for name, figure in figures.items():
            save_plotly_graph_object(in_optuna, figure, graph_object_id=f"mergetune-{index}-{name}")
            count += 1
    return count


@cache
def _can_draw() -> bool:
    """Return whether plotly is installed; warns once in each process if it is not, because results need no figures."""
    installed = find_spec("plotly") is not None
    if not installed:
        _log.warning("plotly is not installed, so the dashboard gets no importance figures: pip install plotly")
    return installed


def unet_figure(facts: Insight, findings: Findings) -> go.Figure:
    """Draw the U-Net: colours are the best trial's numbers, bars the importance."""
    import plotly.graph_objects as go

    picture = picture_of(facts, findings)
    where = spots(facts.space.architecture)
    figure = go.Figure()
    _add_bars(figure, facts, picture)
    hover = []
    for place in where:
        number = "" if picture.values is None else f"<br>{label_of(picture.slot)}: {picture.values[place]:.4f}"
        share = picture.shares.get(place)
        hover.append(f"{place}{number}<br>{'fixed' if share is None else f'importance: {100 * share:.1f} %'}")
    values = None if picture.values is None else [picture.values[place] for place in where]
    scale = [[index / 2, colour] for index, colour in enumerate(COLOURS)]
    figure.add_trace(
        go.Scatter(
            x=[spot.x for spot in where.values()],
            y=[spot.y for spot in where.values()],
            mode="markers+text",
            text=[spot.label for spot in where.values()],
            textfont={"size": 10, "color": DARK},
            textposition="middle center",
            hovertext=hover,
            hoverinfo="text",
            marker={
                "symbol": "square",
                "size": 34,
                "color": "white" if values is None else values,
                "colorscale": scale,
                "cmin": picture.low,
                "cmax": picture.high,
                "showscale": values is not None,
                "colorbar": {"title": {"text": label_of(picture.slot)}, "thickness": 12},
                "line": {"color": DARK, "width": 1},
            },
        )
    )
    trial = f"trial {picture.trial.number}, {picture.trial.title}"
    _style(figure, f"{findings.objective}: {trial}; bars are importance (PED-ANOVA{_doubt(facts)})", 720)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _add_bars(figure: go.Figure, facts: Insight, picture: Picture) -> None:
    largest = max(picture.shares.values()) or 1.0
    for place, spot in spots(facts.space.architecture).items():
        if place not in picture.shares:
            continue
        start = spot.x + spot.side * (BOX[0] / 2)
        end = start + spot.side * REACH * picture.shares[place] / largest
        figure.add_shape(
            type="rect", x0=start, x1=end, y0=spot.y - 0.2, y1=spot.y + 0.2, fillcolor=BAR, line={"width": 0}
        )


def progress_figure(facts: Insight, findings: Findings) -> go.Figure:
    """Draw every trial's objective, with parents and probes marked, and the best so far."""
    import plotly.graph_objects as go

    figure = go.Figure()
    numbers, running = best_so_far(facts, findings)
    figure.add_trace(go.Scatter(x=numbers, y=running, mode="lines", line_shape="hv", name="best so far"))
    for group in groups_of(facts):
        figure.add_trace(
            go.Scatter(
                x=[trial.number for trial in group.trials],
                y=[trial.objectives[findings.objective] for trial in group.trials],
                mode="markers",
                name=group.label,
                hovertext=[trial.title for trial in group.trials],
                marker={"color": group.colour, "symbol": group.symbol, "size": 9 if group.size > 20 else 7},
            )
        )
    better = "higher" if findings.direction == "maximize" else "lower"
    _style(figure, f"{findings.objective} by trial ({better} is better)", 420)
    figure.update_layout(showlegend=True, xaxis_title="trial", yaxis_title=findings.objective)
    return figure


def effects_figure(facts: Insight, findings: Findings) -> go.Figure:
    """Draw a small panel with the main effect of each parameter, all on one scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = [parameter.name for parameter in facts.space.parameters]
    rows = math.ceil(len(names) / COLUMNS)
    titles = [f"{name} {100 * findings.shares[name]:.0f} %" for name in names]
    figure = make_subplots(rows=rows, cols=min(COLUMNS, len(names)), shared_yaxes=True, subplot_titles=titles)
    for index, name in enumerate(names):
        panel = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        bins = findings.effects[name]
        figure.add_trace(
            go.Scatter(
                x=[(part.low + part.high) / 2 for part in bins],
                y=[part.mean for part in bins],
                error_y={"type": "data", "array": [part.error or 0.0 for part in bins], "thickness": 1},
                mode="lines+markers",
                line={"color": BAR, "width": 1.5},
                hovertext=[counted(part.trials, "trial") for part in bins],
            ),
            **panel,
        )
        if findings.model_effects is not None:
            effect = findings.model_effects[name]
            line = {"color": MODEL, "width": 1.2, "dash": "dash"}
            hover = [f"the model, {100 * effect.share:.1f} %"] * len(effect.at)
            trace = go.Scatter(x=effect.at, y=effect.mean, mode="lines", line=line, hovertext=hover)
            figure.add_trace(trace, **panel)
    title = f"{findings.objective}: means in {BINS} equal parts of the bounds, with standard errors; dashed: the model"
    _style(figure, title, 190 * rows)
    figure.update_layout(height=150 + 150 * rows)
    figure.update_annotations(font_size=10)
    return figure


def _doubt(facts: Insight) -> str:
    return "" if facts.reliable else f", {counted(len(facts.samples), 'trial')}: not reliable yet"


def _style(figure: go.Figure, title: str, height: int) -> None:
    figure.update_layout(
        title={"text": title, "font": {"size": 14}},
        height=height,
        template="plotly_white",
        showlegend=False,
        margin={"l": 40, "r": 20, "t": 50, "b": 40},
    )
