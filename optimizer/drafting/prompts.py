"""The prompts of a first spec: the user's, or examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

EXAMPLE_PROMPTS: Final = (
    "a portrait of an old fisherman, overcast light",
    "a red bicycle leaning against a yellow wall",
    "a castle on a cliff at sunset",
    "a cat sleeping on a stack of books",
)


def prompts_of(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the prompts of a text file: one a line; empty lines and those that begin with # are left out."""
    stripped = (line.strip() for line in lines)
    return tuple(dict.fromkeys(line for line in stripped if line and not line.startswith("#")))
