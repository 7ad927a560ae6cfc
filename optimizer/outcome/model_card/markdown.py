"""The parts of a model card in Markdown; texts of others in them are shown as they are, but of moderate length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from basics.markdown import escaped
from basics.texts import shortened, visible


def one_line(text: str) -> str:
    """Return a text of others in one line of moderate length, without control characters."""
    return shortened(" ".join(visible(text).split()))


def brief(text: str) -> str:
    """Return a text of moderate length that is shown as it is in the middle of a line."""
    return escaped(one_line(text))


def code(text: str) -> str:
    """Return a text in a block of its own, which nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def picture(file: str, shows: str) -> str:
    """Return a picture that lies beside the page."""
    return f"![{brief(shows)}]({quote(file)})"


def link(file: str) -> str:
    """Return a link to a file that lies beside the page."""
    return f"[{brief(file)}]({quote(file)})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
