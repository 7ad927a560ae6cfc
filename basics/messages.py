"""Parts of messages: an error in one line, and suggestions for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from basics.errors import MergetuneError
from basics.texts import REASON_CHARACTERS, shortened

PLUGIN_CHARACTERS = 1000  # of what a plug-in says


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or the name of its type if the message is empty."""
    return shortened(next(iter(str(error).strip().splitlines()), type(error).__name__))


def in_one_line(error: BaseException) -> str:
    """Return an error in one line; one that was not raised on purpose begins with its kind."""
    words = " ".join(str(error).split())[:PLUGIN_CHARACTERS]
    if isinstance(error, MergetuneError):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def first_of(lines: Sequence[str]) -> str:
    """Return the first of some lines, of which there is one at least, and how many more there are."""
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def counted(count: float, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 image", "2 images", "1,000 images", "0.5 images".

    Args:
        plural: the noun for every other number than 1, where it is not the noun with an s.
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun if count == 1 else plural or noun + 's'}"


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return up to `count` known names that are similar to a misspelt one, the nearest first.

    Case is ignored: `in00` for `IN00` is the most common mistake.
    """
    if len(name) > REASON_CHARACTERS:  # comparing takes time that grows with the length, and nobody misspells this
        return []
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.6)
    return [by_folded[folded] for folded in matches]


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, then all known names."""
    names = tuple(known)
    hint = "".join(f"did you mean {candidate!r}? " for candidate in nearest(name, names))
    return f"{hint}Known: {', '.join(names)}"
