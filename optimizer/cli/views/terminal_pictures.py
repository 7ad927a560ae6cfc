"""Pictures in a terminal that can show them: kitty, iTerm2, sixels. Through Chafa, where the extra `terminal` is there.

The terminal is recognised by the environment alone: a question to it would have to be answered through the keyboard's
input, which a program that runs for hours must leave to the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment

from basics.pictures import UNREADABLE
from optimizer.cli.common import console, interactive

CELL: Final = (10, 20)  # width and height of a character, pixels: usual, where a terminal does not tell
SCREEN_SHARE: Final = 0.6  # of a terminal's height, at most: what was printed before stays in sight


def show_picture(where: str) -> None:
    """Show a picture in the terminal; does nothing where that cannot show any, or the picture is in no local file."""
    mode = _mode() if interactive() and Path(where).is_file() else None
    if mode is None:
        return
    try:
        with Image.open(where) as picture:
            console.print(TerminalPicture(picture.convert("RGB"), mode))
    except UNREADABLE:  # it may have been replaced or removed meanwhile
        return


def _mode() -> Any:
    """Return the way of this terminal to show pictures, a `chafa.PixelMode`; None if there is none."""
    try:
        import chafa
    except (ImportError, OSError, TypeError):  # not installed, or without the GLib that it needs
        return None
    if os.environ.get("TMUX") or os.environ.get("STY"):  # they swallow what they do not know
        return None
    terminal, sequences, modes = chafa.TermDb().detect(), chafa.TermSeq, chafa.PixelMode
    if terminal.have_seq(sequences.CHAFA_TERM_SEQ_BEGIN_KITTY_IMMEDIATE_IMAGE_V1):
        return modes.CHAFA_PIXEL_MODE_KITTY
    if terminal.have_seq(sequences.CHAFA_TERM_SEQ_BEGIN_ITERM2_IMAGE):
        return modes.CHAFA_PIXEL_MODE_ITERM2
    return modes.CHAFA_PIXEL_MODE_SIXELS if terminal.have_seq(sequences.CHAFA_TERM_SEQ_BEGIN_SIXELS) else None


@dataclass(frozen=True)
class TerminalPicture:
    """A picture for the console, as wide as it unless that is too high.

    Args:
        picture: RGB.
        mode: a `chafa.PixelMode`.
    """

    picture: Image.Image
    mode: Any

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the terminal's own sequences, which the console passes on as they are."""
        yield from self._segments(options.max_width, max(1, int(options.size.height * SCREEN_SHARE)))

    def _segments(self, columns: int, rows: int) -> Iterator[Segment]:
        import chafa

        width, height = self.picture.size
        config = chafa.CanvasConfig()
        config.pixel_mode, config.canvas_mode = self.mode, chafa.CanvasMode.CHAFA_CANVAS_MODE_TRUECOLOR
        config.cell_width, config.cell_height = CELL
        # Never larger than it is: a small picture is not blown up to the whole screen.
        config.width, config.height = min(columns, -(-width // CELL[0])), min(rows, -(-height // CELL[1]))
        config.calc_canvas_geometry(width, height, CELL[0] / CELL[1])
        canvas = chafa.Canvas(config)
        canvas.draw_all_pixels(chafa.PixelType.CHAFA_PIXEL_RGB8, self.picture.tobytes(), width, height, width * 3)
        sequences = canvas.print(term_info=chafa.TermDb().detect()).decode("ascii")
        yield Segment(sequences, None, [(ControlType.CARRIAGE_RETURN,)])
        yield Segment.line()
