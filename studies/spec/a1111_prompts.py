"""The text of prompts of A1111 before its words are read: comments, and tags such as `<lora:name:0.8>`.

A1111 takes every <kind:name> out of a prompt, whether or not it knows the kind (modules/extra_networks.py). Further
arguments follow the name, between colons. It reads tags in the prompt, not in the negative one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LORA: Final = "lora"
_TAG: Final = re.compile(r"<(\w+):([^>]+)>")
_LIKE_A_LORA: Final = re.compile(r"(?i)<lora:[^>]*>?")
_COMMENT: Final = re.compile(r"#[^\n]*(?:\n|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A tag as it is written; what its arguments mean is not looked at."""

    text: str
    start: int  # position in the prompt
    kind: str  # such as lora or hypernet
    name: str
    arguments: tuple[str, ...]  # what follows the name, between colons


def without_comments(prompt: str) -> str:
    """Return a prompt without what follows a # in a line."""
    return _COMMENT.sub("\n", prompt)


def tags_in(prompt: str) -> tuple[Tag, ...]:
    """Return the tags in a prompt without comments, in their order."""
    return tuple(_tag(found) for found in _TAG.finditer(prompt, 0, _end_of_tags(prompt)))


def without_tags(prompt: str, which: Callable[[Tag], bool]) -> str:
    """Return a prompt without some of its tags, and otherwise as it is.

    Args:
        which: returns whether a tag is taken out; called once for each, in their order.
    """
    end = _end_of_tags(prompt)
    return _TAG.sub(lambda found: "" if which(_tag(found)) else found[0], prompt[:end]) + prompt[end:]


def without_lora_tags(prompt: str) -> str:
    """Return a prompt without the tags of LoRAs, and otherwise as it is."""
    return without_tags(prompt, lambda tag: tag.kind == LORA)


def like_a_lora_tag(text: str) -> str | None:
    """Return what looks first like the tag of a LoRA, in capitals or not, closed or not; None if nothing does."""
    found = _LIKE_A_LORA.search(text)
    return None if found is None else found[0]


def _end_of_tags(prompt: str) -> int:
    """Return the position after the last bracket.

    What begins after it ends nowhere; to search for its end from each beginning takes squared time.
    """
    return prompt.rfind(">") + 1


def _tag(found: re.Match[str]) -> Tag:
    name, *arguments = found[2].split(":")
    return Tag(text=found[0], start=found.start(), kind=found[1], name=name, arguments=tuple(arguments))
