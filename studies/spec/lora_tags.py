"""The marks of networks in prompts of A1111: `<lora:name:0.8>`, which is taken out before the words are read.

A name with no more is `<lora:name>`; further arguments stand between colons. A1111 reads marks in the prompt, not in
the negative one (modules/extra_networks.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LORA: Final = "lora"
_TAG: Final = re.compile(r"<(\w+):([^>]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A mark as it is written; what its arguments mean is not looked at."""

    text: str
    start: int  # position in the prompt
    kind: str  # such as lora or hypernet
    name: str
    arguments: tuple[str, ...]  # what follows the name, between colons


def tags_in(prompt: str) -> tuple[Tag, ...]:
    """Return the marks in a prompt without comments, in their order."""
    return tuple(_tag(found) for found in _TAG.finditer(prompt, 0, _end_of_tags(prompt)))


def network_in(prompt: str) -> re.Match[str] | None:
    """Return the first <kind:name> of a prompt; None if there is none."""
    return _TAG.search(prompt, 0, _end_of_tags(prompt))


def _end_of_tags(prompt: str) -> int:
    """Return the position after the last bracket.

    What begins after it ends nowhere; to search for its end from each beginning takes squared time.
    """
    return prompt.rfind(">") + 1


def _tag(found: re.Match[str]) -> Tag:
    name, *arguments = found[2].split(":")
    return Tag(text=found[0], start=found.start(), kind=found[1], name=name, arguments=tuple(arguments))


def without_tags(prompt: str) -> str:
    """Return a prompt without the marks of LoRAs, and otherwise as it is."""
    end = _end_of_tags(prompt)
    return _TAG.sub(lambda found: "" if found[1] == LORA else found[0], prompt[:end]) + prompt[end:]
