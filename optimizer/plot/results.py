"""What a plot has found: the pictures of every cell, its scores, and its distance to the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from basics.messages import counted, first_of
from optimizer.plot.ablation import in_lines
from optimizer.plot.distances import PictureDistance
from optimizer.plot.kept import KeptCells
from optimizer.plot.tables import Cell, Identity, Table
from scorers.protocol import ScorerInfo

PAPER = 255  # grey level between pictures of different sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What came of one cell."""

    key: str  # under which its images are kept
    failure: str | None = None  # why it has no images
    scores: Mapping[str, float | None] = field(default_factory=dict)  # None: the scorer looks at none of its images
    unscored: str | None = None  # why it has no scores
    distance: PictureDistance | None = None  # to the base of its table

    @property
    def why_no_picture(self) -> str:
        """What stands in the place of its picture, where it has none."""
        return f"failed: {self.failure or 'its images are gone'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionLine:
    """A line below a picture."""

    text: str
    scorer: str | None = None  # whose score it is


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotTable:
    """A table with what came of its cells."""

    table: Table
    results: Mapping[Identity, CellResult]

    def result(self, cell: Cell) -> CellResult:
        """Return what came of a cell."""
        return self.results[cell.identity]

    def best(self, scorer: str, info: ScorerInfo) -> float | None:
        """Return the best value of a scorer in the table; None where there are fewer than two."""
        found = [self.result(cell).scores.get(scorer) for cell in self.table.every]
        values = {value for value in found if value is not None}
        if len(values) < 2:
            return None
        return max(values) if info.direction == "maximize" else min(values)

    @property
    def farthest(self) -> float:
        """The largest distance to the base in levels; 0 without a base."""
        distances = [self.result(cell).distance for cell in self.table.every]
        return max((distance.levels for distance in distances if distance is not None), default=0.0)

    def by_distance(self) -> PlotTable:
        """Return a strip with its base first and the other cells sorted, the farthest first."""
        base, *others = self.table.every

        def levels(cell: Cell) -> float:
            distance = self.result(cell).distance
            return -1.0 if distance is None else distance.levels

        ordered = [base, *sorted(others, key=levels, reverse=True)]
        return replace(self, table=replace(self.table, cells=in_lines(ordered)))


def lines_below(cell: Cell, result: CellResult, infos: Mapping[str, ScorerInfo]) -> tuple[CaptionLine, ...]:
    """Return what stands below a cell's picture."""
    lines = [cell.caption] if cell.caption else []
    if result.distance is not None:
        lines.append(f"{result.distance.levels:.1f} levels")
        if result.distance.cosine is not None:
            lines.append(f"cosine {result.distance.cosine:.3f}")
    if result.unscored is not None:
        lines.append("not scored")
    scores = (
        CaptionLine(text=_score(name, value, cell, infos[name]), scorer=name) for name, value in result.scores.items()
    )
    return (*(CaptionLine(text=line) for line in lines), *scores)


def _score(name: str, value: float | None, cell: Cell, info: ScorerInfo) -> str:
    shown = info.report_name(len(cell.suite.looked_at_by(name))) if info.scope == "set" else name
    return f"{shown} {'–' if value is None else format(value, '#.4g')}"


def picture(result: CellResult, kept: KeptCells) -> Tensor | None:
    """Return a cell's images as one picture, uint8 [3, h, w]; None if it failed, or they are gone."""
    images = None if result.failure is not None else kept.images(result.key)
    return None if images is None else joined(images)


def joined(images: Sequence[Tensor]) -> Tensor:
    """Join images in rows and columns of about equal number, uint8 [3, h, w] each, on white."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    sheet = torch.full((3, -(-len(images) // columns) * height, columns * width), PAPER, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return sheet


def notes_of(tables: Sequence[PlotTable]) -> tuple[str, ...]:
    """Say what the numbers below the pictures are, one line each; nothing where there are none."""
    every = [result for drawn in tables for result in drawn.results.values()]
    distances = [result.distance for result in every if result.distance is not None]
    notes = []
    if distances:
        notes.append("levels: the mean absolute difference from the base's pictures, of 8-bit values of all channels.")
    if any(distance.cosine is not None for distance in distances):
        notes.append("cosine: 1 - the cosine of the pictures' CLIP embeddings, the mean over pictures.")
    if any(result.scores for result in every):
        notes.append("Scores are means over the pictures of a cell; the best of a table is bold.")
    return tuple(notes)


def failures_of(tables: Sequence[PlotTable]) -> tuple[str, ...]:
    """Say which cells have no picture or no score, and why, one line for each reason."""
    cells: dict[str, list[str]] = {}
    for drawn in tables:
        for cell in drawn.table.every:
            result = drawn.result(cell)
            reason = result.failure or result.unscored
            if reason is not None:
                cells.setdefault(f"{'failed' if result.failure else 'not scored'}: {reason}", []).append(cell.label)
    return tuple(f"{counted(len(labels), 'cell')} {reason} ({first_of(labels)})" for reason, labels in cells.items())
