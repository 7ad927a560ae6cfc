"""Brackets in prompts of A1111, and those that do not fit together.

A backslash makes a bracket a character like any other. A closing bracket that closes nothing is one, too, so that a
smiley may stay as it is; an opening bracket that nothing closes is refused, as it would change everything after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.rendering.prompts.pieces import misread

CLOSING = {"(": ")", "[": "]"}
OPENING = {closing: opening for opening, closing in CLOSING.items()}
DEEPEST = 50  # brackets in each other


def unescaped(text: str) -> Iterator[tuple[int, str]]:
    """Yield position and character of everything that no backslash stands before."""
    position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        yield position, text[position]
        position += 1


def pairs(prompt: str) -> dict[int, int]:
    """Return the position of each opening bracket -> that of the bracket which closes it.

    Raises:
        PromptError: a bracket does not close, closes across another, or they are nested too deeply.
    """
    found: dict[int, int] = {}
    opened: list[int] = []
    for position, character in unescaped(prompt):
        if character in CLOSING:
            opened.append(position)
        elif character in OPENING and any(prompt[each] == OPENING[character] for each in opened):
            start = opened.pop()
            if prompt[start] != OPENING[character]:
                raise misread(
                    prompt, start, f"{prompt[start]!r} is not closed before {character!r} closes what stands around it"
                )
            found[start] = position
        if len(opened) > DEEPEST:
            raise misread(prompt, position, f"more than {DEEPEST} brackets stand in each other")
    if opened:
        bracket = prompt[opened[-1]]
        raise misread(
            prompt,
            opened[-1],
            f"{bracket!r} is not closed: add {CLOSING[bracket]!r}, or write \\{bracket} for a bracket that is text",
        )
    return found
