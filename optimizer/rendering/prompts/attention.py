"""Attention as A1111 writes it: (x) weighs 1.1, (x:1.3) as much as it says, [x] 1 / 1.1, and BREAK ends a chunk.

Brackets in each other multiply. The rules are those of A1111's modules/prompt_parser.py. Where they make of a slip
something that nobody means, the prompt is refused: a bracket that does not close, BREAK within brackets (a word with a
negative weight there), and a weight that is no number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from optimizer.rendering.prompts.brackets import pairs
from optimizer.rendering.prompts.pieces import Piece, misread
from studies.spec.brackets import FACTORS, WEIGHT

_PARTS = re.compile(
    r"\\[()\[\]\\]|\\"  # an escaped character; a backslash before another character is left out
    rf"|{WEIGHT}\)"
    r"|[()\[\]:]|[^\\()\[\]:]+"
)
_BREAK = re.compile(r"\bBREAK\b")  # without the spaces around it: to search for those first takes squared time


def weighted_pieces(prompt: str) -> tuple[Piece, ...]:
    """Divide a prompt into pieces, each with its weight; neighbours of equal weight are one piece.

    Raises:
        PromptError: brackets do not fit together, BREAK stands within some, or a weight is no number.
    """
    openings = {closing: opening for opening, closing in pairs(prompt).items()}
    pieces: list[Piece] = []
    opened: dict[int, int] = {}  # position of each open bracket -> how many pieces there were before it
    for part in _PARTS.finditer(prompt):
        text, weight, opening = part[0], part["weight"], openings.get(part.end() - 1)
        if text in FACTORS:
            opened[part.start()] = len(pieces)
        elif opening is not None:
            first = opened.pop(opening)
            factor = FACTORS[prompt[opening]] if weight is None else _number(prompt, part, weight)
            pieces[first:] = _multiplied(pieces[first:], factor)
        elif text.startswith("\\"):
            pieces.append(Piece(text=text[1:]))
        else:
            pieces += _divided(prompt, part, within=bool(opened))
    return _joined(pieces) or (Piece(text=""),)


def _multiplied(pieces: list[Piece], factor: float) -> list[Piece]:
    return [replace(piece, weight=piece.weight * factor) for piece in pieces]


def _number(prompt: str, part: re.Match[str], weight: str) -> float:
    """Return a weight.

    Raises:
        PromptError: it is no number.
    """
    try:
        return float(weight)
    except ValueError:
        raise misread(prompt, part.start(), f"the weight {weight!r} is no number: write (words:1.2)") from None


def _divided(prompt: str, part: re.Match[str], *, within: bool) -> Iterator[Piece]:
    """Yield a text's parts, with a piece that ends the chunk for each BREAK between them.

    Args:
        within: whether the text stands within brackets.

    Raises:
        PromptError: it does, and has a BREAK.
    """
    if within and (found := _BREAK.search(part[0])):
        raise misread(
            prompt,
            part.start() + len(part[0][: found.start()].rstrip()),
            "A1111 reads BREAK within brackets as a word: close the brackets before it and open them again after",
        )
    first, *others = _BREAK.split(part[0])
    yield Piece(text=first.rstrip() if others else first)
    for number, text in enumerate(others, 1):
        yield Piece(text="", ends_chunk=True)
        yield Piece(text=text.lstrip() if number == len(others) else text.strip())


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Join neighbours of one weight."""
    joined: list[Piece] = []
    for (weight, ends_chunk), group in groupby(pieces, key=lambda piece: (piece.weight, piece.ends_chunk)):
        if ends_chunk:
            joined += group
        else:
            joined.append(Piece(text="".join(piece.text for piece in group), weight=weight))
    return tuple(joined)


def is_finite(pieces: tuple[Piece, ...]) -> bool:
    """Return whether every weight is a finite number: brackets in each other may multiply beyond any."""
    return all(math.isfinite(piece.weight) for piece in pieces)
