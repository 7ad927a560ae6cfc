"""The figure of gain against trial as geometry, which a template draws as SVG.

Lengths are in pixels of the figure's own view; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from optimizer.insight.plots import group_label
from optimizer.report.results import Results
from optimizer.report.wording import signed, with_interval
from studies.records.values import Gain, StoredTrial

Kind = Literal["parent", "probe", "copied", "search", "stopped"]
LEGEND: Final[Mapping[Kind, str]] = {
    "parent": "parent",
    "probe": "other probe",
    "search": "search",
    "copied": "copied from another study",
    "stopped": "stopped early: an estimate",
}
_KINDS: Final[Mapping[str, Kind]] = {  # by the words of `group_label`
    "parents": "parent", "other probes": "probe", "copied": "copied", "stopped early": "stopped",
}  # fmt: skip
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 12.0, 34.0  # margins around the plot's area
INSIDE: Final = 12.0  # from its left and right edges to the first and last trial
MARKS: Final = 5  # on the axis of gains, about
FAR: Final = 2.5  # times the usual range: a trial that is farther down is drawn at the lower edge
BESIDE: Final = 6.0  # from a trial's point to that of its held-out gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The plot's area, with its scales."""

    width: float  # of the whole figure
    height: float
    last: int  # number of the last trial
    low: float  # ends of the scale of gains
    high: float

    @property
    def left(self) -> float:
        """The x of the area's left edge."""
        return LEFT

    @property
    def right(self) -> float:
        """The x of the area's right edge."""
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        """The y of the area's lower edge."""
        return self.height - BOTTOM

    def x(self, number: int) -> float:
        """Return where a trial is."""
        span = self.right - self.left - 2 * INSIDE
        return round(self.left + INSIDE + span * number / max(1, self.last), 2)

    def y(self, gain: float) -> float:
        """Return where a gain is; one beyond the scale is at its end."""
        share = (min(max(gain, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - TOP) * share, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A complete trial: its gain with the interval."""

    x: float
    y: float
    ends: tuple[float, float] | None  # y of the interval's lower and upper end; None: it has none
    kind: Kind
    shown: bool  # whether the report shows this trial beside the parents
    below: bool  # whether it lies below the lower edge, where it is drawn
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GainFigure:
    """Gain against trial."""

    name: str  # of the objective
    number: int  # of the trial shown
    axes: Axes
    points: tuple[Point, ...]
    best: str  # the line of the best so far, as points of SVG
    held_out: Point | None  # the gain of the trial shown in the final
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    legend: tuple[tuple[Kind, str], ...]  # of the kinds that occur


def gain_figure(results: Results, name: str, *, width: float, height: float) -> GainFigure | None:
    """Lay out the gains in one objective against the trials; None where no trial has a gain."""
    trials = [trial for trial in results.trials if trial.state == "complete" and name in trial.gains]
    if not trials:
        return None
    finalist = results.finalist(results.shown.number)
    held_out = None if finalist is None else finalist.held_out.get(name)
    gains = [trial.gains[name] for trial in trials]
    low, high = _range(gains, [] if held_out is None else [held_out])
    axes = Axes(width=width, height=height, last=results.trials[-1].number, low=low, high=high)
    sampler = results.study.spec.sampler.name
    kinds = [_KINDS.get(group_label(trial, sampler), "search") for trial in trials]
    points = [
        _point(axes, trial, gain, kind, shown=trial is results.shown)
        for trial, gain, kind in zip(trials, gains, kinds, strict=True)
    ]
    return GainFigure(
        name=name,
        number=results.shown.number,
        axes=axes,
        points=tuple(points),
        best=_best_so_far(axes, trials, name),
        held_out=None if held_out is None else _held_out(axes, results.shown, held_out),
        across=tuple(Tick(at=axes.x(number), label=str(number)) for number in _trial_marks(axes)),
        up=tuple(Tick(at=axes.y(gain), label=signed(gain) if gain else "0") for gain in _gain_marks(axes)),
        legend=tuple((kind, words) for kind, words in LEGEND.items() if kind in kinds),
    )


def _range(gains: Sequence[Gain], held_out: Sequence[Gain]) -> tuple[float, float]:
    """Return the ends of the scale: a few trials that are far worse than the others do not press these together."""
    values = np.array([gain.value for gain in gains])
    lower, median = (float(each) for each in np.quantile(values, (0.1, 0.5)))
    bounds = [bound for gain in held_out for bound in (gain.low, gain.high, gain.value) if bound is not None]
    best = max(gains, key=lambda gain: gain.value)
    high = max(0.0, best.value if best.high is None else best.high, *bounds)
    usual = min(0.0, lower - 2 * (median - lower), *bounds)
    least = min(0.0, float(values.min()), *bounds)
    low = least if high - least <= FAR * (high - usual) else usual
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _point(axes: Axes, trial: StoredTrial, gain: Gain, kind: Kind, *, shown: bool) -> Point:
    is_better_parent = trial.origin.parent == gain.parent
    told = "the better parent" if is_better_parent else f"{with_interval(gain)} over parent {gain.parent}"
    return Point(
        x=axes.x(trial.number),
        y=axes.y(gain.value),
        ends=None if gain.low is None or gain.high is None else (axes.y(gain.low), axes.y(gain.high)),
        kind=kind,
        shown=shown,
        below=gain.value < axes.low,
        title=f"trial {trial.number}, {trial.title}: {told}",
    )


def _held_out(axes: Axes, trial: StoredTrial, gain: Gain) -> Point:
    """Return the point of the final, beside that of the search."""
    point = _point(axes, trial, gain, "search", shown=True)
    side = -BESIDE if point.x + BESIDE > axes.right - INSIDE / 2 else BESIDE
    return Point(
        x=point.x + side,
        y=point.y,
        ends=point.ends,
        kind=point.kind,
        shown=True,
        below=False,
        title=f"held out: {point.title}",
    )


def _best_so_far(axes: Axes, trials: Sequence[StoredTrial], name: str) -> str:
    """Return the steps of the largest gain up to each trial, among those of the full suite."""
    steps: list[tuple[float, float]] = []
    best = -math.inf
    for trial in trials:
        if trial.is_whole and trial.gains[name].value > best:
            x = axes.x(trial.number)
            steps += [(x, axes.y(best))] if steps else []
            best = trial.gains[name].value
            steps.append((x, axes.y(best)))
    if steps:
        steps.append((axes.x(axes.last), axes.y(best)))
    return " ".join(f"{x:g},{y:g}" for x, y in steps)


def _trial_marks(axes: Axes) -> Iterator[int]:
    """Yield round numbers of trials, far enough from each other for their labels."""
    step = max(1, round(_round_step(axes.last / max(2.0, axes.width / 90))))
    yield from range(0, axes.last + 1, step)


def _gain_marks(axes: Axes) -> Iterator[float]:
    step = _round_step((axes.high - axes.low) / MARKS)
    for count in range(math.ceil(axes.low / step), math.floor(axes.high / step) + 1):
        yield count * step


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10 ..., of any power of ten, that is not below a number."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
