"""Texts of others made safe and short, before they are shown.

What others wrote (a file's names and metadata, a library's error, a row of a database) may be of any length and contain
anything, also what a terminal carries out.
"""

from __future__ import annotations

import re
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


def in_comment(text: str) -> str:
    """Return a text as it may stand in a comment of one line: what is no printable character is `?`."""
    return "".join(each if each.isprintable() else "?" for each in text)


def shortened(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Return a text, or its beginning and end with the number of characters that are left out between them."""
    if len(text) <= characters:
        return text
    end = characters // 4
    return f"{text[: characters - end]}... ({len(text) - characters:,} characters) ...{text[-end:]}"
