"""Parts of messages for people: one line of an error, and what a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return up to `count` known names that a misspelt one may mean, the nearest first.

    Case does not count: `in00` for `IN00` is the slip most often made.
    """
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[folded] for folded in found]


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the tail of a message about a misspelt name: the nearest known one, then all of them."""
    names = tuple(known)
    hint = "".join(f"did you mean {candidate!r}? " for candidate in nearest(name, names))
    return f"{hint}Known: {', '.join(names)}"
