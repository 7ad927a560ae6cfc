"""Weights as ComfyUI reads them: (x) weighs 1.1, (x:1.3) exactly 1.3 whatever stands around it, all else is text.

The rules are those of ComfyUI's comfy/sd1_clip.py. Only round brackets and `embedding:NAME` mean something: BREAK,
square brackets and <lora:...> are words there. It is another grammar than that of A1111's brackets: a backslash before
anything but a round bracket is a character, a weight replaces those around it, and a stray bracket hides what follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from optimizer.rendering.prompts.pieces import Piece, misread
from studies.spec.brackets import DEEPEST

MORE = 1.1  # what a bracket without a number multiplies by
MARK = "embedding:"  # before the name of an embedding, at the start of a piece or after a space
_ESCAPED = re.compile(r"\\([()])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An embedding that a piece names, and what stands in the same word and after it."""

    name: str
    rest: str  # to the next embedding


def weighted_pieces(prompt: str) -> tuple[Piece, ...]:
    """Divide a prompt into pieces, each with its weight.

    Raises:
        PromptError: a bracket does not close, or one that closes nothing hides those after it.
    """
    _refuse_unbalanced(prompt)
    hidden = _ESCAPED.sub(lambda found: "\0\1" if found[1] == ")" else "\0\2", prompt)
    return tuple(_shown(piece) for piece in _weighted(prompt, hidden, 1.0))


def _shown(piece: Piece) -> Piece:
    return Piece(text=piece.text.replace("\0\1", ")").replace("\0\2", "("), weight=piece.weight)


def _refuse_unbalanced(prompt: str) -> None:
    """Refuse brackets that do not fit together.

    Raises:
        PromptError: there are some.
    """
    opened: list[int] = []
    stray: int | None = None
    for found in re.finditer(r"\\[()]|[()]", prompt):
        if found[0] == "(":
            if stray is not None:
                raise misread(
                    prompt, stray, "')' closes nothing, and ComfyUI reads no brackets after it: write \\) for a text"
                )
            opened.append(found.start())
        elif found[0] == ")":
            stray = found.start() if not opened and stray is None else stray
            opened = opened[:-1]
        if len(opened) > DEEPEST:
            raise misread(prompt, found.start(), f"more than {DEEPEST} brackets stand in each other")
    if opened:
        raise misread(prompt, opened[-1], "'(' is not closed: add ')', or write \\( for a bracket that is text")


def _weighted(prompt: str, text: str, weight: float) -> Iterator[Piece]:
    """Yield the pieces of a text.

    Args:
        prompt: the whole one, for messages.
        weight: of what stands in no further brackets.
    """
    for part in _parts(text):
        if not (part.startswith("(") and part.endswith(")")):
            yield Piece(text=part, weight=weight)
            continue
        inner, own = part[1:-1], weight * MORE
        before, colon, number = inner.rpartition(":")
        if colon and before and (given := _number(number)) is not None:
            if not math.isfinite(given):
                raise misread(prompt, max(0, prompt.find(number)), f"the weight {number!r} is no finite number")
            inner, own = before, given
        yield from _weighted(prompt, inner, own)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parts(text: str) -> Iterator[str]:
    """Yield the outermost brackets of a text whose brackets close, and the texts between them."""
    depth, start = 0, 0
    for position, character in enumerate(text):
        if character == "(":
            if depth == 0 and start < position:
                yield text[start:position]
                start = position
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[start : position + 1]
                start = position + 1
    if start < len(text):
        yield text[start:]


def words_and_embeddings(text: str) -> Iterator[str | Named]:
    """Yield the texts of a piece, and the embeddings between them in their order.

    A text is what stands between embeddings: it is tokenized as a whole.
    """
    first, *others = re.split(rf"[ \n]{MARK}", text)
    for part in (first, *(MARK + other for other in others)):
        if not part.startswith(MARK):
            if part:
                yield part
            continue
        name, *rest = part.removeprefix(MARK).strip("\n").split() or [""]
        yield Named(name=name, rest=" ".join(rest))
