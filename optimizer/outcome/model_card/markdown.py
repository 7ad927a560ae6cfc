"""Texts of others in Markdown: shown as they are, whatever signs are in them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from basics.texts import shortened, visible

_SIGNS: Final = re.compile(r"([\\`*_{}\[\]|~$])")  # within a line; those that begin one are not among them


def one_line(text: str) -> str:
    """Return a text of others in one line of moderate length, without control characters."""
    return shortened(" ".join(visible(text).split()))


def escaped(text: str) -> str:
    """Return a text that is shown as it is in the middle of a line: no sign of it is Markdown or HTML."""
    return _SIGNS.sub(r"\\\1", html.escape(one_line(text), quote=False))


def code(text: str) -> str:
    """Return a text in a block of its own, which nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def picture(file: str, shows: str) -> str:
    """Return a picture that lies beside the page."""
    return f"![{escaped(shows)}]({quote(file)})"


def link(file: str) -> str:
    """Return a link to a file that lies beside the page."""
    return f"[{escaped(file)}]({quote(file)})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
