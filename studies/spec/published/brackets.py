"""Brackets of A1111's prompts that nothing closes."""

from __future__ import annotations

import re
from typing import Final

from studies.spec.spellings import without_comments

_SIGNS: Final = re.compile(r"\\.|[()\[\]]", re.DOTALL)
_OPENING: Final = {")": "(", "]": "["}
_WEIGHT: Final = re.compile(r":\s*[+-]?[.\d]+\s*\Z")


def with_closed_brackets(prompt: str) -> str:
    """Return a prompt with its round brackets closed at its end, where that is how A1111 reads it.

    In A1111's modules/prompt_parser.py a round bracket without an end weighs all that follows it. So do square ones,
    but closed they could mean a text that changes; and a number at the end would become a weight. Such prompts, and
    those whose brackets close across each other, are returned as they are.
    """
    written = without_comments(prompt)
    opened: list[str] = []
    for sign in _SIGNS.finditer(written):
        if sign[0] in _OPENING.values():
            opened.append(sign[0])
        elif _OPENING.get(sign[0]) in opened and opened.pop() != _OPENING[sign[0]]:
            return prompt
    if not opened or "[" in opened or _WEIGHT.search(written):
        return prompt
    return written + ")" * len(opened)
