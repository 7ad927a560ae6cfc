"""A picture of a study: the U-Net with its ratios and their importance, the progress, and all main effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from basics.files import open_to_write
from basics.messages import counted
from optimizer.insight.importance import BINS, RELIABLE, Findings, Insight
from search_spaces.blocks import VAE, Architecture, blocks, place_label, section_of, text_encoders
from search_spaces.slots import Slot
from studies.records.values import StoredTrial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import SubFigure

WIDTH_INCHES: Final = 16.0
TOP_INCHES: Final = 8.6  # the U-Net and the progress
PANEL_INCHES: Final = 1.75  # a row of main effects
COLUMNS: Final = 7  # main effects in a row
DPI: Final = 120
COLOURS: Final = ("#2b6ca3", "#f4f1ec", "#d9822b")  # ratio 0, middle, 1; colour-blind people can tell them apart
DARK: Final = "#333333"
BOX: Final = (1.5, 0.8)  # width and height of a block; the distance between two is 1
SIDE: Final = 3.1  # from the middle to the left and right columns
REACH: Final = 2.2  # length of the longest importance bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """The spot at which a place is drawn: its centre, and the side of its importance bar (-1 left, 1 right)."""

    x: float
    y: float
    side: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """What the diagram of a U-Net says: a number for every place, and how much it mattered."""

    slot: Slot
    trial: StoredTrial
    role: str  # what the trial is: `best (the final's choice)`
    values: Mapping[str, float] | None  # place -> the slot's number; None if the trial is outside the space
    shares: Mapping[str, float]  # searched place -> importance of its parameter
    shared: bool  # whether any parameter has several places
    low: float  # ends of the colour scale
    high: float


def spots(architecture: Architecture) -> dict[str, Spot]:
    """Arrange the blocks as the signal passes them, the text encoders below on the left, the VAE below on the right."""
    in_order = blocks(architecture)
    arranged = _u_shape(in_order) if "M00" in in_order else _two_columns(in_order)
    bottom = min(spot.y for spot in arranged.values()) - 1.1
    for index, place in enumerate(text_encoders(architecture)):
        label = place_label(place, architecture)
        arranged[place] = Spot(x=-SIDE, y=bottom - index, side=-1, label=label)
    return arranged | {VAE: Spot(x=SIDE, y=bottom, side=1, label=place_label(VAE, architecture))}


def _u_shape(in_order: Sequence[str]) -> dict[str, Spot]:
    """Arrange input blocks down the left, the middle block at the bottom, and output blocks up the right.

    An output block is opposite the input block whose output it gets through the skip connection.
    """
    depth = (len(in_order) - 1) // 2
    arranged = {}
    for block in in_order:
        section = section_of(block)
        if section == "MID":
            arranged[block] = Spot(x=0.0, y=-depth - 0.3, side=1, label=block)
            continue
        number = int(block.removeprefix(section))
        row = number if section == "IN" else depth - 1 - number
        side = -1 if section == "IN" else 1
        x = side * (SIDE - 0.45 * (row // 3))  # three rows for each resolution
        arranged[block] = Spot(x=x, y=-row, side=side, label=block)
    return arranged


def _two_columns(in_order: Sequence[str]) -> dict[str, Spot]:
    """Arrange blocks that are one list: the first half down the left, the second half down the right."""
    half = math.ceil(len(in_order) / 2)
    arranged = {}
    for number, block in enumerate(in_order):
        side = -1 if number < half else 1
        arranged[block] = Spot(x=side * SIDE, y=-(number % half), side=side, label=block)
    return arranged


def diagram_of(insight: Insight, findings: Findings) -> Diagram:
    """Describe the ratio slot that matters most, in the study's best merge."""
    space, trial = insight.space, insight.shown
    totals = {
        index: sum(findings.shares[parameter.name] for parameter in space.parameters if parameter.slot == index)
        for index in {parameter.slot for parameter in space.parameters}
    }
    ratios = [index for index in space.ratio_slots if index in totals]
    index = max(ratios or totals, key=lambda slot: (totals[slot], -slot))
    parameters = [parameter for parameter in space.parameters if parameter.slot == index]
    params = insight.params_of(trial)
    values = (
        None if params is None else {place: numbers[index] for place, numbers in space.numbers_by_place(params).items()}
    )
    bounds = [bound for parameter in parameters for bound in (parameter.low, parameter.high)]
    scale = [*(values or {}).values(), *bounds]
    return Diagram(
        slot=space.slots[index],
        trial=trial,
        role=f"{insight.shown_as} ({insight.best.reason})" if insight.shown_as == "best" else insight.shown_as,
        values=values,
        shares={place: findings.shares[parameter.name] for parameter in parameters for place in parameter.places},
        shared=any(len(parameter.places) > 1 for parameter in parameters),
        low=min(0.0, *scale),
        high=max(1.0, *scale),
    )


def draw_insight(path: Path, insight: Insight) -> None:
    """Draw the U-Net, the progress and the main effects of each objective into a PNG file.

    Args:
        insight: what mattered; see `importance.insight`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(insight.space.parameters) / COLUMNS)
    heights = [TOP_INCHES, 0.7 + PANEL_INCHES * rows]
    count = len(insight.findings)
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) * count), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2 * count, 1, height_ratios=heights * count)
    for index, findings in enumerate(insight.findings):
        upper = parts[2 * index].subplots(1, 2, width_ratios=[1.15, 1.0])
        _title(parts[2 * index], insight, findings)
        _draw_unet(upper[0], insight, diagram_of(insight, findings))
        _draw_progress(upper[1], insight, findings)
        _draw_effects(parts[2 * index + 1], insight, findings, rows)
    with open_to_write(path) as file:
        figure.savefig(file, format="png")


def _title(figure: SubFigure, insight: Insight, findings: Findings) -> None:
    count = len(insight.samples)
    doubt = "" if insight.reliable else f"; not reliable below {RELIABLE}"
    title = f"{insight.study.name}: what mattered for {findings.objective} ({counted(count, 'trial')}{doubt})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold", parse_math=False)


# ------------------------------------------------------------------------------------------- the U-Net


def _draw_unet(axes: Axes, insight: Insight, diagram: Diagram) -> None:
    """Draw the blocks in the colour of their ratio, each with an importance bar on its outer side."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("ratio", list(COLOURS))
    norm = Normalize(diagram.low, diagram.high)
    where = spots(insight.space.architecture)
    _skips(axes, where)
    for place, spot in where.items():
        _draw_place(axes, place, spot, diagram, colours, norm)
    bottom = min(spot.y for spot in where.values())
    axes.set_xlim(-7.1, 7.1)
    axes.set_ylim(bottom - 1.6, 1.1)
    axes.axis("off")
    axes.text(0, 0.75, _unet_heading(diagram), ha="center", va="center", fontsize=10, color=DARK, parse_math=False)
    note = "bar beside a block: importance (PED-ANOVA), as a share of the total"
    if diagram.shared:
        note += "\nblocks that share one number all show its importance"
    axes.text(0, bottom - 0.85, note, ha="center", va="top", fontsize=9, color=DARK)
    bar = axes.figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, orientation="horizontal", shrink=0.5, pad=0.0, aspect=40
    )
    bar.set_label(label_of(diagram.slot), fontsize=9, parse_math=False)


def label_of(slot: Slot) -> str:
    """Name a slot for people, such as `ratio of B`."""
    return f"ratio of {slot.name}" if slot.kind == "ratio" else slot.name


def _unet_heading(diagram: Diagram) -> str:
    trial = f"trial {diagram.trial.number}, {diagram.trial.title}: {diagram.role}"
    if diagram.values is None:
        return f"{trial}; it is outside the search space, so blocks have no colours"
    return f"colour and number: {label_of(diagram.slot)} in {trial}"


def _skips(axes: Axes, where: Mapping[str, Spot]) -> None:
    """Draw the skip connections of a U-Net, and the path of the signal down and up."""
    if "M00" not in where:
        return
    left = [spot for block, spot in where.items() if block.startswith("IN")]
    right = [spot for block, spot in where.items() if block.startswith("OUT")]
    for start, end in zip(left, reversed(right), strict=True):
        axes.plot([start.x, end.x], [start.y, end.y], color="#dddddd", linewidth=1, linestyle=":", zorder=0)
    path = [*left, where["M00"], *right]
    axes.plot([spot.x for spot in path], [spot.y for spot in path], color="#bbbbbb", linewidth=2, zorder=0)


def _draw_place(
    axes: Axes, place: str, spot: Spot, diagram: Diagram, colours: LinearSegmentedColormap, norm: Normalize
) -> None:
    """Draw one place with its label and importance bar; a fixed place has a dashed outline and no bar."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    width, height = BOX
    value = None if diagram.values is None else diagram.values[place]
    share = diagram.shares.get(place)
    largest = max(diagram.shares.values()) or 1.0
    colour = "white" if value is None else colours(norm(value))
    outline = 0.6 if share is None else 0.8 + 2.4 * share / largest
    corner = (spot.x - width / 2, spot.y - height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner,
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=DARK if share is not None else "#999999",
            linewidth=outline,
            linestyle="-" if share is not None else "--",
        )
    )
    ink = "white" if value is not None and _is_dark(colours(norm(value))) else DARK
    text = spot.label if value is None else f"{spot.label}\n{value:.2f}{'' if share is not None else ' fixed'}"
    axes.text(spot.x, spot.y, text, ha="center", va="center", fontsize=7.5, color=ink, linespacing=1.05)
    if share is None:
        return
    start = spot.x + spot.side * (width / 2 + 0.12)
    length = REACH * share / largest
    axes.add_patch(Rectangle((min(start, start + spot.side * length), spot.y - 0.22), length, 0.44, color="#6b5b95"))
    axes.text(
        start + spot.side * (length + 0.1),
        spot.y,
        f"{100 * share:.0f} %",
        ha="left" if spot.side > 0 else "right",
        va="center",
        fontsize=7.5,
        color=DARK,
    )


def _is_dark(colour: tuple[float, float, float, float]) -> bool:
    """Return whether text on an RGBA colour in 0..1 should be white, by its BT.709 luma."""
    red, green, blue, _ = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5


# ---------------------------------------------------------------------------------------- the progress


def best_so_far(insight: Insight, findings: Findings) -> tuple[list[int], list[float]]:
    """Return the numbers of the trials of the full suite, and the best value up to each."""
    complete = [trial for trial in insight.trials if trial.is_whole]
    values = np.array([trial.objectives[findings.objective] for trial in complete])
    running = np.maximum.accumulate(values) if findings.direction == "maximize" else np.minimum.accumulate(values)
    return [trial.number for trial in complete], [float(value) for value in running]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A kind of complete trial, and how it is drawn."""

    label: str
    colour: str
    marker: str  # Matplotlib's
    symbol: str  # Plotly's
    size: float  # points squared
    trials: tuple[StoredTrial, ...]


def groups_of(insight: Insight) -> list[Group]:
    """Group the complete trials as in the legend, in its order; empty groups are left out."""
    sampler = insight.study.spec.sampler.name
    styles = {
        "parents": ("#c0392b", "D", "diamond", 46.0),
        "other probes": ("#7f8c8d", "s", "square", 26.0),
        "copied": ("#7d5ba6", "^", "triangle-up", 26.0),
        f"sampler: {sampler}": ("#2b6ca3", "o", "circle", 18.0),
        "stopped early": ("#9ab7d3", "v", "triangle-down", 18.0),
    }
    trials: dict[str, list[StoredTrial]] = {label: [] for label in styles}
    for trial in insight.trials:
        if trial.state == "complete":
            trials[group_label(trial, sampler)].append(trial)
    return [
        Group(label=label, colour=colour, marker=marker, symbol=symbol, size=size, trials=tuple(trials[label]))
        for label, (colour, marker, symbol, size) in styles.items()
        if trials[label]
    ]


def group_label(trial: StoredTrial, sampler: str) -> str:
    """Return to which kind of complete trial it belongs, as the legend calls it."""
    if trial.origin.kind == "parent":
        return "parents"
    if trial.estimated:
        return "stopped early"
    if trial.source is not None:
        return "copied"
    return f"sampler: {sampler}" if trial.origin.kind == "sampler" else "other probes"


def _draw_progress(axes: Axes, insight: Insight, findings: Findings) -> None:
    """Draw every trial's objective, the best so far, and the better parent as a line."""
    name = findings.objective
    groups = groups_of(insight)
    for group in groups:
        numbers = [trial.number for trial in group.trials]
        values = [trial.objectives[name] for trial in group.trials]
        axes.scatter(
            numbers, values, marker=group.marker, color=group.colour, s=group.size, label=group.label, zorder=3
        )
    numbers, running = best_so_far(insight, findings)
    axes.step(numbers, running, where="post", color="#d9822b", linewidth=2, label="best observed so far", zorder=2)
    parents = [trial for group in groups if group.label == "parents" for trial in group.trials]
    if parents:
        pick = max if findings.direction == "maximize" else min
        better = pick(parents, key=lambda trial: trial.objectives[name])
        axes.axhline(better.objectives[name], color="#c0392b", linestyle="--", linewidth=1, zorder=1)
        axes.annotate(
            f"better parent: {better.origin.parent}",
            (1.0, better.objectives[name]),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#c0392b",
        )
    failed = [trial.number for trial in insight.trials if trial.state == "failed"]
    if failed:
        axes.scatter(
            failed,
            [0.015] * len(failed),
            marker="x",
            color="black",
            transform=axes.get_xaxis_transform(),
            label="failed",
        )
    better_is = "higher" if findings.direction == "maximize" else "lower"
    axes.set_title("progress", loc="left", fontsize=11)
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{name} ({better_is} is better)", parse_math=False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="best", framealpha=0.9)


# ------------------------------------------------------------------------------------- the main effects


def _draw_effects(figure: SubFigure, insight: Insight, findings: Findings, rows: int) -> None:
    """Draw a small panel for each parameter, in depth order, all on one scale."""
    figure.suptitle(
        f"main effects: trials (dots), their means in {BINS} equal parts of the bounds with standard errors, "
        f"the model's effect (dashed), and {insight.shown_as} (trial {insight.shown.number}, vertical line)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    panels = np.atleast_1d(figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)).ravel()
    best = insight.params_of(insight.shown) or {}
    largest = max(findings.shares.values()) or 1.0
    for axes, parameter in zip(panels, insight.space.parameters, strict=False):
        name, share = parameter.name, findings.shares[parameter.name]
        positions = [sample.params[name] for sample in insight.samples]
        values = [sample.objectives[findings.objective] for sample in insight.samples]
        axes.scatter(positions, values, s=5, color="#c3ccd5", linewidths=0)
        bins = findings.effects[name]
        axes.errorbar(
            [(part.low + part.high) / 2 for part in bins],
            [part.mean for part in bins],
            yerr=[part.error or 0.0 for part in bins],
            color="#6b5b95",
            linewidth=1.0 + 1.6 * share / largest,
            marker="o",
            markersize=3.5,
        )
        if findings.model_effects is not None:
            effect = findings.model_effects[name]
            axes.plot(effect.at, effect.mean, color="#2a9d8f", linewidth=1.2, linestyle="--")
        if name in best:
            axes.axvline(best[name], color="#d9822b", linewidth=1.2)
        axes.set_title(f"{name}  {100 * share:.0f} %", fontsize=8.5, pad=3, parse_math=False)
        margin = 0.04 * (parameter.high - parameter.low)
        axes.set_xlim(parameter.low - margin, parameter.high + margin)
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(insight.space.parameters) :]:
        axes.axis("off")
