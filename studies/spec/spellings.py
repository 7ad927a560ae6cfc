"""The words that a prompt of A1111 can spell while it changes: `bad[hand:foot:0.5]` is badhand, then badfoot.

What changes when is decided where prompts are read, by the steps of each item. Here it is enough to know what may come
to stand beside what: every part of square brackets with a colon or a bar in them counts as one that may hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

DEPTH: Final = 50  # brackets in each other; such a prompt is refused where it is read
_SIGNS: Final = re.compile(r"\\.|[\[\]():|]", re.DOTALL)
_CLOSING: Final = {"[": "]", "(": ")"}


@dataclass(frozen=True)
class Choice:
    """Texts of which one holds, or none."""

    options: tuple[tuple[str | Choice, ...], ...]


Text = tuple[str | Choice, ...]


def changing(prompt: str, folded: Callable[[str], str]) -> Text:
    """Return a prompt as texts and the choices between them.

    Args:
        folded: returns a text as it is compared.
    """
    options, _, _ = _parts(prompt, 0, "", folded, 0)
    return options[0]


def spells(text: Text, name: str) -> bool:
    """Return whether a name stands in some form that a text can take."""
    return len(name) in _matched(text, name, frozenset({0}))


def _matched(text: Text, name: str, begun: frozenset[int]) -> frozenset[int]:
    """Return how many characters of a name can stand right before the end of a text; all, where they stood anywhere.

    Args:
        begun: the same for what comes before the text.
    """
    whole = len(name)
    for part in text:
        if isinstance(part, Choice):
            begun = begun.union(*(_matched(option, name, begun) for option in part.options))
            continue
        through = {count + len(part) for count in begun if name.startswith(part, count)}
        ended = whole in begun or name in part or any(part.startswith(name[count:]) for count in begun)
        new = {count for count in range(1, min(whole, len(part) + 1)) if part.endswith(name[:count])}
        begun = frozenset({0, *through, *new, *([whole] if ended else [])})
    return begun


def _parts(
    prompt: str, start: int, closing: str, folded: Callable[[str], str], depth: int
) -> tuple[list[Text], int, bool]:
    """Return the parts up to a closing bracket, the position after it, and whether the bracket is there.

    Args:
        closing: the bracket; empty for the whole prompt, which is one part.
    """
    parts: list[list[str | Choice]] = [[]]
    place = start
    while (sign := _SIGNS.search(prompt, place)) is not None:
        parts[-1].append(folded(prompt[place : sign.start()]))
        place = sign.end()
        if closing and sign[0] == closing:
            return [_joined(part) for part in parts], place, True
        if closing == "]" and sign[0] in {":", "|"}:
            parts.append([])
        elif sign[0] in _CLOSING and depth < DEPTH:
            inner, place, closed = _parts(prompt, place, _CLOSING[sign[0]], folded, depth + 1)
            parts[-1] += _bracket(sign[0], inner, closed=closed)
        else:
            parts[-1].append(folded(sign[0]))
    parts[-1].append(folded(prompt[place:]))
    return [_joined(part) for part in parts], len(prompt), False


def _joined(part: list[str | Choice]) -> Text:
    """Return a part with neighbouring texts as one."""
    joined: list[str | Choice] = []
    for each in part:
        if isinstance(each, str) and joined and isinstance(joined[-1], str):
            joined[-1] += each
        elif each:
            joined.append(each)
    return tuple(joined)


def _bracket(opening: str, parts: list[Text], *, closed: bool) -> Iterator[str | Choice]:
    if opening == "[" and len(parts) > 1:
        yield Choice(tuple(parts))
        return
    yield opening
    for part in parts:
        yield from part
    if closed:
        yield _CLOSING[opening]
