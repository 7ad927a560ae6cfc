"""Texts of others in Markdown: shown as they are, whatever signs are in them."""

from __future__ import annotations

import html
import re
from typing import Final

from basics.texts import visible

_SIGNS: Final = re.compile(
    r"([\\`*_{}\[\]|~$])"
)  # within a line or a table; those that begin a line are not among them


def escaped(text: str) -> str:
    """Return a text that is shown as it is in the middle of a line: without Markdown, HTML and control characters."""
    return _SIGNS.sub(r"\\\1", html.escape(" ".join(visible(text).split()), quote=False))
