"""The consoles of the command line: whatever text they are given, the terminal gets characters and not commands."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from basics.texts import visible


class SafeConsole(Console):
    """A console that prints control characters as escapes (`\\x1b`), wherever the text comes from.

    Metadata of model files, their names and texts in a database are other people's, and a terminal would carry out
    what they contain. Colours and the movements of progress bars are not part of texts and stay as they are.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn markup into text; escapes are made here so that columns have room for them."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is printed: also of texts that did not come as markup, such as those of progress bars."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class SafeLogFormatter(logging.Formatter):
    """The format of log records on a terminal: their message, with control characters as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def make_log_safe() -> None:
    """Let records of loggers that nobody has set up, which Python prints to stderr, be printed safely."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeLogFormatter())
