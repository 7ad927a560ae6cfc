"""Tables in which nothing is cut: names are copied from them, and searched for in them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

LEAST_WIDTH = 12  # characters that a column keeps beside others; in narrower terminals every row is a list
UNBOUNDED = 100_000  # characters


class FoldingTable(Table):
    """A table that a terminal folds, or shows row by row if it is too narrow; elsewhere, lines are as long as they are.

    Args:
        title: in rich's markup.
        show_header: whether the columns have heads.
    """

    def __init__(self, title: str, *, show_header: bool = True) -> None:
        super().__init__(title=title, title_justify="left", show_header=show_header)

    def head(self, text: str = "", *, justify: JustifyMethod = "left") -> None:
        """Add a column.

        Args:
            text: its head, in rich's markup.
        """
        self.add_column(text, justify=justify, overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        natural = self.__rich_measure__(console, options.update_width(UNBOUNDED)).maximum
        if not console.is_terminal:
            yield from super().__rich_console__(console, options.update_width(natural))
        elif min(natural, self._least(console, options)) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            narrow = options.update_width(max(options.max_width, 2 * LEAST_WIDTH))
            for part in self._row_by_row():
                yield from console.render(part, narrow)

    def _least(self, console: Console, options: ConsoleOptions) -> int:
        """Return the width in which every column keeps `LEAST_WIDTH` characters, or all that it has."""
        unbounded = options.update_width(UNBOUNDED)
        widths = [
            max(Measurement.get(console, unbounded, cell).maximum for cell in (column.header, *column.cells))
            for column in self.columns
        ]
        frame = 3 * len(widths) + 1  # a line and two spaces for each column, and the last line
        return sum(min(width, LEAST_WIDTH) for width in widths) + frame

    def _row_by_row(self) -> Iterator[RenderableType]:
        """Yield the title, then every row as a small table of heads and values."""
        yield self.title or ""
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            row = Table(show_header=False)
            row.add_column(overflow="fold")
            row.add_column(overflow="fold")
            for column, cell in zip(self.columns, cells, strict=True):
                row.add_row(column.header, cell)
            yield row
