"""Parts of messages: texts of others made safe and short, and suggestions for a misspelt name.

What others wrote (a file's names and metadata, a library's error, a row of a database) may be of any length and contain
anything, also what a terminal carries out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

REASON_CHARACTERS: Final = 300  # of another program's error
MESSAGE_CHARACTERS: Final = 2000  # of an error of ours: more than any that is not about hostile input
# Commands to terminals (C0, DEL, C1), changes of the writing direction, lines that are none, and half characters.
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    "|\r(?!\n)"
)


def visible(text: str) -> str:
    """Return a text with its control characters as escapes, such as `\\x1b`; lines and tabs stay.

    Everything of others goes through here before it is shown: a terminal carries out escape sequences, and a change of
    the writing direction makes a name look like another.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Return a text, or its beginning and end with the number of characters that are left out between them."""
    if len(text) <= characters:
        return text
    end = characters // 4
    return f"{text[: characters - end]}... ({len(text) - characters:,} characters) ...{text[-end:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or the name of its type if the message is empty."""
    return shortened(next(iter(str(error).strip().splitlines()), type(error).__name__))


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return up to `count` known names that are similar to a misspelt one, the nearest first.

    Case is ignored: `in00` for `IN00` is the most common mistake.
    """
    if len(name) > REASON_CHARACTERS:  # comparing takes time that grows with the length, and nobody misspells this
        return []
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[folded] for folded in matches]


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, then all known names."""
    names = tuple(known)
    hint = "".join(f"did you mean {candidate!r}? " for candidate in nearest(name, names))
    return f"{hint}Known: {', '.join(names)}"
