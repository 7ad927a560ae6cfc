"""What a prompt is divided into before its words become tokens, and the error for one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

from basics.texts import shortened
from optimizer.errors import PromptError

MOST_CHARACTERS = 100_000  # of a prompt; an honest one has some hundreds
AROUND = 12  # characters on both sides of a place that a message quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a prompt with one weight."""

    text: str
    weight: float = 1.0
    ends_chunk: bool = False  # BREAK: what follows stands in the next chunk; it has no text of its own


def misread(prompt: str, position: int, problem: str) -> PromptError:
    """Return the error for a place in a prompt.

    Args:
        position: of the character, from 0.
        problem: what was expected, and what to do.
    """
    around = prompt[max(0, position - AROUND) : position + AROUND]
    return PromptError(
        f"the prompt {shortened(prompt, 60)!r} cannot be read at character {position + 1} ({around!r}): {problem}"
    )


def refuse_long(prompt: str) -> None:
    """Refuse a prompt that is no prompt.

    Raises:
        PromptError: it is longer than any.
    """
    if len(prompt) > MOST_CHARACTERS:
        raise PromptError(
            f"the prompt {shortened(prompt, 60)!r} has {len(prompt):,} characters, more than {MOST_CHARACTERS:,}: give "
            "the words of one picture"
        )
