"""The picture of a model with the numbers of its blocks as geometry, which a template draws as SVG.

It has the arrangement and the colours of `optimizer/insight/plots.py`. Lengths are in pixels of the figure's own view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from optimizer.insight.importance import Findings, Insight
from optimizer.insight.plots import COLOURS, DARK, diagram_of, label_of, spots
from optimizer.report.results import Results
from optimizer.report.wording import decimals
from search_spaces.blocks import Architecture

ACROSS, DOWN = 39.0, 43.0  # pixels for a unit of `spots`
BOX: Final = (104.0, 36.0)  # width and height of a block
EDGE: Final = 8.0
INSET: Final = 8.0  # from a box's edges to its texts and its bar
SHOWN: Final = 0.03  # of the largest importance: a shorter bar would be a dot


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One place: its number, and how much that mattered."""

    x: float  # of the left edge
    y: float  # of the upper edge
    label: str
    value: str
    colour: str
    ink: str
    share: float | None  # importance, 0 to 1; None: it is not searched, or nothing is known
    bar: float  # length of the importance bar
    fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A connection of two blocks."""

    x1: float
    y1: float
    x2: float
    y2: float
    skip: bool


@dataclass(frozen=True, kw_only=True)
class Unet:
    """A model's blocks with their numbers."""

    objective: str | None  # whose importance is shown; None: none
    slot: str  # what the numbers are
    width: float
    height: float
    box_width: float
    box_height: float
    inset: float  # from a box's edges to its texts and its bar
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    low: float  # ends of the colours' scale
    high: float
    shared: bool  # whether any number belongs to several places


def unet_of(results: Results, importance: Insight | None, findings: Findings | None) -> Unet | None:
    """Lay out the blocks of the merge shown; None where its recipe has no numbers.

    Args:
        importance, findings: what mattered; None: too few trials to tell. It is not shown of a merge outside the search
            space, whose numbers may be others.
    """
    recipe = results.shown.recipe
    if not recipe.columns:
        return None
    diagram = None
    if importance is not None and findings is not None and importance.params_of(results.shown) is not None:
        diagram = diagram_of(importance, findings)
    index = 0 if importance is None or diagram is None else importance.space.slots.index(diagram.slot)
    name, values = list(recipe.columns.items())[index]
    scale = [0.0, 1.0] if diagram is None else [diagram.low, diagram.high]
    colours = _Colours(low=min(*scale, *values.values()), high=max(*scale, *values.values()))
    where = spots(Architecture(recipe.architecture))
    left = min(spot.x for spot in where.values()) * ACROSS - BOX[0] / 2 - EDGE
    top = -max(spot.y for spot in where.values()) * DOWN - BOX[1] / 2 - EDGE
    corners = {
        place: (round(spot.x * ACROSS - BOX[0] / 2 - left, 1), round(-spot.y * DOWN - BOX[1] / 2 - top, 1))
        for place, spot in where.items()
    }
    shares = {} if diagram is None else diagram.shares
    return Unet(
        objective=None if findings is None else findings.objective,
        slot=_slot_name(name) if diagram is None else label_of(diagram.slot),
        width=max(x for x, _ in corners.values()) + BOX[0] + EDGE,
        height=max(y for _, y in corners.values()) + BOX[1] + EDGE,
        box_width=BOX[0],
        box_height=BOX[1],
        inset=INSET,
        boxes=tuple(_box(where[place].label, corners[place], values[place], shares, place, colours) for place in where),
        lines=tuple(_lines(corners)),
        low=colours.low,
        high=colours.high,
        shared=diagram is not None and diagram.shared,
    )


def _slot_name(name: str) -> str:
    return f"ratio of {name}" if len(name) == 1 else name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Colours:
    """The scale of colours, from `low` by the middle to `high`."""

    low: float
    high: float

    def of(self, value: float) -> tuple[int, int, int]:
        """Return the colour of a number: red, green and blue, 0 to 255."""
        place = 2 * (value - self.low) / (self.high - self.low)
        first, second = (COLOURS[0], COLOURS[1]) if place <= 1 else (COLOURS[1], COLOURS[2])
        share = place if place <= 1 else place - 1
        red, green, blue = (
            round((1 - share) * one + share * other) for one, other in zip(_rgb(first), _rgb(second), strict=True)
        )
        return red, green, blue


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _box(
    label: str, corner: tuple[float, float], value: float, shares: Mapping[str, float], place: str, colours: _Colours
) -> Box:
    colour = colours.of(value)
    share = shares.get(place)
    largest = max(shares.values(), default=0.0) or 1.0
    is_dark = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] < 128  # BT.709 luma
    return Box(
        x=corner[0],
        y=corner[1],
        label=label,
        value=decimals(value),
        colour="#{:02x}{:02x}{:02x}".format(*colour),
        ink="#ffffff" if is_dark else DARK,
        share=share,
        bar=0.0 if share is None or share < SHOWN * largest else round((BOX[0] - 2 * INSET) * share / largest, 1),
        fixed=bool(shares) and share is None,
    )


def _lines(corners: Mapping[str, tuple[float, float]]) -> Iterator[Line]:
    """Yield a U-Net's skip connections, and the path of the signal down and up; nothing for another kind of model."""
    if "M00" not in corners:
        return
    middles = {place: (x + BOX[0] / 2, y + BOX[1] / 2) for place, (x, y) in corners.items()}
    left = [middles[place] for place in corners if place.startswith("IN")]
    right = [middles[place] for place in corners if place.startswith("OUT")]
    for start, end in zip(left, reversed(right), strict=True):
        yield Line(x1=start[0], y1=start[1], x2=end[0], y2=end[1], skip=True)
    path = [*left, middles["M00"], *right]
    for start, end in pairwise(path):
        yield Line(x1=start[0], y1=start[1], x2=end[0], y2=end[1], skip=False)
