"""A plot as one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from optimizer.plot.kept import KeptCells
from optimizer.plot.results import PlotTable, lines_below, picture
from optimizer.plot.tables import Cell
from optimizer.rendering.contact_sheet import SheetCell, SheetTable, table_sheet, thumbnail
from scorers.protocol import ScorerInfo


def plot_sheet(
    title: str, tables: Sequence[PlotTable], kept: KeptCells, infos: Mapping[str, ScorerInfo]
) -> Image.Image:
    """Draw all tables below each other; pictures are made smaller."""
    pictures = sum(len(drawn.table.every) for drawn in tables)

    def cell_of(drawn: PlotTable, cell: Cell) -> SheetCell:
        result = drawn.result(cell)
        whole = picture(result, kept)
        lines = tuple(line.text for line in lines_below(cell, result, infos))
        if whole is None:
            return SheetCell(image=None, lines=(*lines, result.why_no_picture))
        return SheetCell(image=thumbnail(whole, pictures), lines=lines)

    return table_sheet(
        title,
        [
            SheetTable(
                title=drawn.table.title,
                columns=drawn.table.columns,
                rows=drawn.table.rows,
                cells=tuple(tuple(cell_of(drawn, cell) for cell in row) for row in drawn.table.cells),
            )
            for drawn in tables
        ],
    )
