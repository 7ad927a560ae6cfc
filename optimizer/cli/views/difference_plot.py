"""The distances of two checkpoints as a bar chart: one bar per place, in the order in which a signal passes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from basics.files import open_to_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from search_spaces.blocks import Architecture

WIDTH_INCHES: Final = 14.0
HEIGHT_INCHES: Final = 5.0
DPI: Final = 150
GAP: Final = 0.8  # between groups, in bars
NAME_SHOWN: Final = 70  # characters of a file name
GROUPS: Final = {  # heading -> colour; position and heading distinguish the groups, too, not only colour
    "text": "#8c6bb1",
    "input blocks": "#2b6ca3",
    "middle": "#0b3c5d",
    "output blocks": "#4fa3c7",
    "VAE": "#d08a3e",
}
HEADINGS: Final = {"IN": "input blocks", "MID": "middle", "OUT": "output blocks"}  # of sections
OTHER_SECTION: Final = "#2b6ca3"  # colour of a section without a heading of its own


def draw_distances(
    path: Path, distances: Mapping[str, float | None], architecture: Architecture, *, a: str, b: str
) -> None:
    """Write a PNG of 2100 x 750 pixels.

    Args:
        distances: place -> relative distance, at least 0; None if it is not a number, which is drawn as a cross.
        a, b: names of the files.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max((value or 0.0 for value in distances.values()), default=0.0) or 0.01  # equal files: an empty scale
    _bars(axes, distances, architecture, largest)
    axes.set_ylim(0, largest * 1.12)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    axes.set_ylabel("distance, ‖B − A‖ / ‖A‖")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"A: {_cut(a)}\nB: {_cut(b)}", loc="left", fontsize=10, parse_math=False)
    with open_to_write(path) as file:
        figure.savefig(file, format="png")


def _bars(axes: Axes, distances: Mapping[str, float | None], architecture: Architecture, largest: float) -> None:
    """Draw the bars with their labels, and a heading over every group."""
    from search_spaces.blocks import place_label

    ticks: list[float] = []
    labels: list[str] = []
    at = 0.0
    for heading, places in _grouped(architecture).items():
        present = [place for place in places if place in distances]
        if not present:
            continue
        positions = [at + number for number in range(len(present))]
        heights = [distances[place] for place in present]
        bars = axes.bar(
            positions, [height or 0.0 for height in heights], width=0.8, color=GROUPS.get(heading, OTHER_SECTION)
        )
        axes.bar_label(bars, [_percent(height) for height in heights], padding=2, fontsize=7, color="#444444")
        for position, height in zip(positions, heights, strict=True):
            if height is None:
                axes.plot(position, largest * 0.03, marker="x", color="#c0392b", markersize=8)
        middle = (positions[0] + positions[-1]) / 2
        axes.text(middle, 1.0, heading, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)
        ticks += positions
        labels += [place_label(place, architecture) for place in present]
        at = positions[-1] + 1 + GAP
    axes.set_xticks(ticks, labels, fontsize=7.2)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.8, at - GAP - 0.2)


def _grouped(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Return heading -> places, from left to right."""
    from search_spaces.blocks import VAE, text_encoders
    from search_spaces.families.registry import family_of

    sections = family_of(architecture).sections
    return {
        "text": text_encoders(architecture),
        **{HEADINGS.get(section, section): members for section, members in sections.items()},
        "VAE": (VAE,),
    }


def _percent(value: float | None) -> str:
    """Format a percentage with three digits; the axis has the percent sign."""
    if not value:
        return "" if value is None else "0"
    return f"{100 * value:#.3g}".removesuffix(".")


def _cut(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}..."
