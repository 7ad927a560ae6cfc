"""Plotly figures of a study, stored in it for optuna-dashboard."""

from __future__ import annotations

import html
import logging
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from basics.messages import counted
from optimizer.errors import TooFewTrialsError
from optimizer.insight.importance import BINS, Findings, Insight, insight
from optimizer.insight.plots import (
    COLOURS,
    DARK,
    Diagram,
    Spot,
    best_so_far,
    diagram_of,
    groups_of,
    label_of,
    spots,
)
from optimizer.trial.objective import Objective
from studies.records.optuna_studies import optuna_study_id
from studies.records.optuna_tables import store_figures
from studies.records.study_records import StudyRecords

if TYPE_CHECKING:
    import plotly.graph_objects as go

_log = logging.getLogger(__name__)

COLUMNS: Final = 3  # main effects in a row
PANELS: Final = 9  # main effects: more than this many do not fit into a frame
NAME_LETTERS: Final = 16  # of a number above its panel
TITLE_LETTERS: Final = 46  # of a line: as many as fit into the frame of a narrow window
LINE: Final = 15  # pixels of a title's line
BAR: Final = "#6b5b95"
MODEL: Final = "#2a9d8f"
BOX: Final = (2.3, 0.84)  # width and height of a block, which holds its name and number; two are 1 apart
REACH: Final = 1.0  # length of the longest importance bar
EDGE: Final = 6.4  # from the middle to where the longest bar has its percentage
NAMES: Final = "mergetune-"  # what the names of our figures begin with

# optuna-dashboard draws into a frame of 450 pixels, as wide as half of its page: so figures name no size of their own.
# The mode bar lies over the right edge, and the title to its left.
MARGIN: Final = {"l": 44, "r": 36, "b": 40}


def save_figures(records: StudyRecords, objective: Objective) -> int:
    """Store the study's figures for the dashboard, replacing earlier ones; returns their number.

    It is 0 if the study has too few trials or plotly is not installed.
    """
    if not _can_draw():
        return 0
    try:
        found = insight(records, objective)
    except TooFewTrialsError:
        return 0
    figures: dict[str, str] = {}
    for index, findings in enumerate(found.findings):
        drawn = (
            unet_figure(found, findings),
            progress_figure(found, findings),
            effects_figure(found, findings),
        )
        figures |= {f"{index}-{place}": str(figure.to_json()) for place, figure in enumerate(drawn)}
    store_figures(records.database, optuna_study_id(records), NAMES, figures)
    return len(figures)


@cache
def _can_draw() -> bool:
    """Return whether plotly is installed; warns once in each process if it is not, because results need no figures."""
    installed = find_spec("plotly") is not None
    if not installed:
        _log.warning("plotly is not installed, so the dashboard gets no importance figures: pip install plotly")
    return installed


def unet_figure(found: Insight, findings: Findings) -> go.Figure:
    """Draw the U-Net: colours and numbers are the best merge's, bars the importance."""
    import plotly.graph_objects as go

    diagram = diagram_of(found, findings)
    where = spots(found.space.architecture)
    figure = go.Figure()
    colours = _box_colours(diagram, list(where))
    _add_boxes(figure, where, diagram, colours)
    _add_bars(figure, where, diagram)
    figure.add_trace(
        go.Scatter(
            x=[spot.x for spot in where.values()],
            y=[spot.y for spot in where.values()],
            mode="text",
            text=[_in_box(place, spot, diagram) for place, spot in where.items()],
            textfont={"size": 9, "color": [_ink(colour) for colour in colours]},
            hovertext=[_hover(place, diagram) for place in where],
            hoverinfo="text",
        )
    )
    of_what = f"{label_of(diagram.slot)} in the boxes, importance for {findings.objective} as bars{_doubt(found)}"
    _style(figure, f"{diagram.trial.name}: {diagram.role}", of_what)
    bottom = min(spot.y for spot in where.values())
    figure.update_layout(margin={"l": 8, "b": 8})
    figure.update_xaxes(visible=False, range=[-EDGE, EDGE], fixedrange=True)
    figure.update_yaxes(visible=False, range=[bottom - 0.6, 0.6], fixedrange=True)
    return figure


def _box_colours(diagram: Diagram, places: Sequence[str]) -> list[str]:
    """Return the colour of every box as `rgb(r, g, b)`: the number's, or white where there is none."""
    from plotly.colors import sample_colorscale

    if diagram.values is None:
        return ["rgb(255, 255, 255)"] * len(places)
    scale = [[index / 2, colour] for index, colour in enumerate(COLOURS)]
    span = diagram.high - diagram.low
    return list(sample_colorscale(scale, [(diagram.values[place] - diagram.low) / span for place in places]))


def _ink(colour: str) -> str:
    """Return the colour of text on `rgb(r, g, b)`, by its BT.709 luma."""
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5 * 255 else DARK


def _in_box(place: str, spot: Spot, diagram: Diagram) -> str:
    return spot.label if diagram.values is None else f"{spot.label} {diagram.values[place]:.2f}"


def _hover(place: str, diagram: Diagram) -> str:
    number = "" if diagram.values is None else f"<br>{label_of(diagram.slot)}: {diagram.values[place]:.4f}"
    share = diagram.shares.get(place)
    return f"{place}{number}<br>{'fixed' if share is None else f'importance: {100 * share:.1f} %'}"


def _add_boxes(figure: go.Figure, where: Mapping[str, Spot], diagram: Diagram, colours: Sequence[str]) -> None:
    """Draw the boxes; a fixed place has a dashed outline."""
    width, height = BOX
    for (place, spot), colour in zip(where.items(), colours, strict=True):
        figure.add_shape(
            type="rect",
            x0=spot.x - width / 2,
            x1=spot.x + width / 2,
            y0=spot.y - height / 2,
            y1=spot.y + height / 2,
            fillcolor=colour,
            line={"color": DARK, "width": 1, "dash": "solid" if place in diagram.shares else "dot"},
            layer="below",
        )


def _add_bars(figure: go.Figure, where: Mapping[str, Spot], diagram: Diagram) -> None:
    """Draw the importance beside each box that is searched, with its percentage."""
    import plotly.graph_objects as go

    largest = max(diagram.shares.values()) or 1.0
    ends: list[tuple[float, Spot, str]] = []
    for place, spot in where.items():
        if place not in diagram.shares:
            continue
        start = spot.x + spot.side * (BOX[0] / 2)
        end = start + spot.side * REACH * diagram.shares[place] / largest
        figure.add_shape(
            type="rect", x0=start, x1=end, y0=spot.y - 0.2, y1=spot.y + 0.2, fillcolor=BAR, line={"width": 0}
        )
        ends.append((end, spot, f"{100 * diagram.shares[place]:.0f} %"))
    figure.add_trace(
        go.Scatter(
            x=[end for end, _, _ in ends],
            y=[spot.y for _, spot, _ in ends],
            mode="text",
            text=[f" {text}" if spot.side > 0 else f"{text} " for _, spot, text in ends],
            textposition=["middle right" if spot.side > 0 else "middle left" for _, spot, _ in ends],
            textfont={"size": 9, "color": DARK},
            hoverinfo="skip",
        )
    )


def progress_figure(found: Insight, findings: Findings) -> go.Figure:
    """Draw every trial's objective, with parents, probes and the best marked, and the best observed so far."""
    import plotly.graph_objects as go

    figure = go.Figure()
    numbers, running = best_so_far(found, findings)
    figure.add_trace(go.Scatter(x=numbers, y=running, mode="lines", line_shape="hv", name="best observed so far"))
    for group in groups_of(found):
        figure.add_trace(
            go.Scatter(
                x=[trial.number for trial in group.trials],
                y=[trial.objectives[findings.objective] for trial in group.trials],
                mode="markers",
                name=group.label,
                hovertext=[trial.name for trial in group.trials],
                marker={"color": group.colour, "symbol": group.symbol, "size": 9 if group.size > 20 else 7},
            )
        )
    best = found.best.trial
    figure.add_trace(
        go.Scatter(
            x=[best.number],
            y=[best.objectives[findings.objective]],
            mode="markers",
            name="best",
            hovertext=[f"{best.name}: {found.best.reason}"],
            marker={"color": "rgba(0, 0, 0, 0)", "symbol": "circle", "size": 16, "line": {"color": DARK, "width": 2}},
        )
    )
    better = "higher" if findings.direction == "maximize" else "lower"
    _style(figure, f"{findings.objective} by trial ({better} is better)", f"best: {best.name} ({found.best.reason})")
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "font": {"size": 10}}
    figure.update_layout(showlegend=True, xaxis_title="trial", legend=legend, margin={"b": 110})
    return figure


def effects_figure(found: Insight, findings: Findings) -> go.Figure:
    """Draw a small panel with the main effect of each of the parameters that matter most, all on one scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    ranked = sorted(found.space.parameters, key=lambda parameter: -findings.shares[parameter.name])[:PANELS]
    names = [parameter.name for parameter in found.space.parameters if parameter in ranked]  # in depth order
    rows = math.ceil(len(names) / COLUMNS)
    titles = [f"{_shortened(name)}<br>{100 * findings.shares[name]:.0f} %" for name in names]
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
    of_all = "" if len(names) == len(found.space.parameters) else f" ({len(names)} of {len(found.space.parameters)})"
    _style(
        figure,
        f"{findings.objective}: what matters most{of_all}",
        f"means in {BINS} equal parts, standard errors; dashed: the model",
    )
    figure.update_layout(margin_t=figure.layout.margin.t + 2 * LINE)  # the titles of the first row
    figure.update_xaxes(tickfont={"size": 9}, nticks=3)
    figure.update_yaxes(tickfont={"size": 9}, nticks=4)
    figure.update_annotations(font_size=9)
    return figure


def _doubt(found: Insight) -> str:
    return "" if found.reliable else f", {counted(len(found.samples), 'trial')}: not reliable yet"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"


def _style(figure: go.Figure, *title: str) -> None:
    """Give a figure the look of all: title at the left, mode bar down the right edge, no size of its own.

    Args:
        title: its lines, which are wrapped.
    """
    lines = [part for line in title for part in textwrap.wrap(line, TITLE_LETTERS)]
    text = "<br>".join(html.escape(line, quote=False) for line in lines)
    figure.update_layout(
        title={"text": text, "font": {"size": 11}, "x": 0.01, "xanchor": "left", "y": 0.96, "yanchor": "top"},
        template="plotly_white",
        showlegend=False,
        autosize=True,
        modebar={"orientation": "v", "bgcolor": "rgba(0, 0, 0, 0)"},
        margin=MARGIN | {"t": 32 + LINE * len(lines)},
    )
