"""Brackets in prompts of A1111: which closes which, and what they weigh.

A backslash makes a bracket a character like any other. A closing bracket that closes nothing is one, too, so that a
smiley may stay as it is. (x) weighs 1.1, (x:1.3) as much as it says, and [x] 1 / 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

CLOSING: Final[Mapping[str, str]] = {"(": ")", "[": "]"}
OPENING: Final[Mapping[str, str]] = {closing: opening for opening, closing in CLOSING.items()}
DEEPEST: Final = 50  # brackets in each other
FACTORS: Final[Mapping[str, float]] = {"(": 1.1, "[": 1 / 1.1}  # weights of brackets without a number
WEIGHT: Final = r":\s*(?P<weight>[+-]?[.\d]+)\s*"  # before the end of round brackets
WEIGHT_AT_END: Final = re.compile(rf"{WEIGHT}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Which brackets of a prompt belong together; positions are those of characters."""

    closings: Mapping[int, int]  # position of each opening bracket -> of the one that closes it
    unclosed: tuple[int, ...] = ()  # opening brackets that nothing closes, from the outermost
    crossing: tuple[int, int] | None = None  # an opening bracket, and the end of what stands around it; nothing follows
    too_deep: int | None = None  # where more than DEEPEST stand in each other


def paired(prompt: str) -> Pairing:
    """Return which brackets of a prompt belong together, up to the first two that close across each other."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    counts = dict.fromkeys(CLOSING, 0)  # of those that are open
    too_deep: int | None = None
    for position, character in unescaped(prompt):
        if character in CLOSING:
            opened.append(position)
            counts[character] += 1
        elif character in OPENING and counts[OPENING[character]]:
            start = opened.pop()
            if prompt[start] != OPENING[character]:
                return Pairing(closings=closings, crossing=(start, position), too_deep=too_deep)
            closings[start] = position
            counts[prompt[start]] -= 1
        if len(opened) > DEEPEST and too_deep is None:
            too_deep = position
    return Pairing(closings=closings, unclosed=tuple(opened), too_deep=too_deep)


def unescaped(text: str) -> Iterator[tuple[int, str]]:
    """Yield position and character of everything that no backslash stands before."""
    position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        yield position, text[position]
        position += 1
