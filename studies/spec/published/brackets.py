"""Brackets of A1111's prompts that nothing closes."""

from __future__ import annotations

from studies.spec.brackets import WEIGHT_AT_END, paired
from studies.spec.spellings import without_comments


def with_closed_brackets(prompt: str) -> str:
    """Return a prompt with its round brackets closed at its end, where that is how A1111 reads it.

    In A1111's modules/prompt_parser.py a round bracket without an end weighs all that follows it. So do square ones,
    but closed they could mean a text that changes; and a number at the end would become a weight. Such prompts, and
    those whose brackets close across each other, are returned as they are.
    """
    written = without_comments(prompt)
    found = paired(written)
    opened = [written[position] for position in found.unclosed]
    if found.crossing is not None or not opened or "[" in opened or WEIGHT_AT_END.search(written):
        return prompt
    return written + ")" * len(opened)
