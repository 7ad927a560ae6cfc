"""Prompts of A1111 that are composed of several with AND, which is not done here."""

from __future__ import annotations

import re

from optimizer.rendering.prompts.pieces import misread

_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(r":\s*[-+]?(?:\d+\.?|\d*\.\d+)\s*\Z")


def refuse_composition(prompt: str) -> None:
    """Refuse a prompt that is composed with AND; a negative one cannot be.

    Raises:
        PromptError: it is.
    """
    if found := _AND.search(prompt):
        raise misread(
            prompt, found.start(), "AND joins several prompts, which is not done here: write `and`, or one prompt"
        )
    if found := _PART_WEIGHT.search(prompt):
        raise misread(
            prompt,
            found.start(),
            "a prompt that ends in a colon and a number has that weight among prompts joined by AND, which is not done "
            "here: put the words in brackets, (words:1.2)",
        )
