"""The words that a prompt of A1111 can spell: `bad[hand:foot:0.5]` is badhand, then badfoot; `(bad)(hand)` is badhand.

What changes when is decided where prompts are read, by the steps of each item. Here it is enough to know what may come
to stand beside what: every part of square brackets with a colon or a bar in them counts as one that may hold. Other
brackets weigh what stands in them, and neighbours of one weight are one text; or brackets are text themselves.

They are not paired by brackets.py, because prompts come here unchecked and with their comments, so that brackets may
not fit together: one counts as closed by the next closing one of its kind, whatever else closes between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from studies.spec.brackets import CLOSING, DEEPEST, FACTORS, WEIGHT_AT_END

_SIGNS: Final = re.compile(r"\\.|[\[\]():|]", re.DOTALL)
_COMMENT: Final = re.compile(r"#[^\n]*(?:\n|\Z)")


@dataclass(frozen=True)
class Word:
    """A text with one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Choice:
    """Texts of which one holds, or none."""

    options: tuple[tuple[Word | Choice, ...], ...]


Text = tuple[Word | Choice, ...]
Begun = frozenset[tuple[int, float]]  # how many characters of a name stand before a place, and their weight


def without_comments(prompt: str) -> str:
    """Return a prompt of A1111 without what follows a # in a line."""
    return _COMMENT.sub("\n", prompt)


def changing(prompt: str, folded: Callable[[str], str]) -> Text:
    """Return a prompt as texts and the choices between them.

    Args:
        folded: returns a text as it is compared.
    """
    readings = (_Reading(prompt, folded, weighs=weighs) for weighs in (True, False))
    return (Choice(tuple(reading.text for reading in readings)),)


def spells(text: Text, name: str) -> bool:
    """Return whether a name stands in some form that a text can take."""
    return any(count == len(name) for count, _ in _matched(text, name, frozenset({(0, 1.0)})))


def _matched(text: Text, name: str, begun: Begun) -> Begun:
    """Return how many characters of a name can stand right before the end of a text; all, where they stood anywhere.

    Args:
        begun: the same for what comes before the text.
    """
    for part in text:
        if isinstance(part, Choice):
            begun = begun.union(*(_matched(option, name, begun) for option in part.options))
        else:
            begun = _after(part, name, begun)
    return begun


def _after(word: Word, name: str, begun: Begun) -> Begun:
    """Return what `_matched` does for one text."""
    text, whole = word.text, len(name)
    counts = {0, *(count for count, weight in begun if math.isclose(weight, word.weight))}
    through = {count + len(text) for count in counts if name.startswith(text, count)}
    new = {count for count in range(1, min(whole, len(text) + 1)) if text.endswith(name[:count])}
    ended = name in text or any(text.startswith(name[count:]) for count in counts)
    if ended or any(count == whole for count, _ in begun):
        through.add(whole)
    return frozenset((count, word.weight) for count in {0, *through, *new})


class _Reading:
    """A prompt taken apart.

    Args:
        weighs: whether brackets weigh what stands in them, or are text.
    """

    def __init__(self, prompt: str, folded: Callable[[str], str], *, weighs: bool) -> None:
        self._prompt, self._folded, self._weighs = prompt, folded, weighs
        (self.text,), _, _ = self._parts(0, "", 0)

    def _parts(self, start: int, closing: str, depth: int) -> tuple[list[Text], int, bool]:
        """Return the parts up to a closing bracket, the position after it, and whether the bracket is there.

        Args:
            closing: the bracket; empty for the whole prompt, which is one part.
        """
        parts: list[list[Word | Choice]] = [[]]
        prompt, place = self._prompt, start
        while (sign := _SIGNS.search(prompt, place)) is not None:
            parts[-1].append(self._word(prompt[place : sign.start()]))
            place = sign.end()
            if closing and sign[0] == closing:
                return [_joined(part) for part in parts], place, True
            if closing == "]" and sign[0] in {":", "|"}:
                parts.append([])
            elif sign[0] in CLOSING and depth < DEEPEST:  # a deeper one is refused where it is read
                inner, place, closed = self._parts(place, CLOSING[sign[0]], depth + 1)
                parts[-1] += self._bracket(sign[0], inner, closed=closed)
            else:
                parts[-1].append(self._word(sign[0]))
        parts[-1].append(self._word(prompt[place:]))
        return [_joined(part) for part in parts], len(prompt), False

    def _word(self, text: str) -> Word:
        return Word(self._folded(text))

    def _bracket(self, opening: str, parts: list[Text], *, closed: bool) -> Iterator[Word | Choice]:
        if opening == "[" and len(parts) > 1:
            yield Choice(tuple(parts))
            return
        inner: Text = tuple(each for part in parts for each in part)
        if self._weighs and closed:
            yield from _weighed(opening, inner)
            return
        yield self._word(opening)
        yield from inner
        if closed:
            yield self._word(CLOSING[opening])


def _weighed(opening: str, inner: Text) -> Text:
    """Return what stands in brackets with the weight that they give it, which may be written at its end."""
    factor, last = FACTORS[opening], inner[-1] if inner else None
    if opening == "(" and isinstance(last, Word) and (weight := WEIGHT_AT_END.search(last.text)):
        try:
            factor = float(weight[1])
        except ValueError:  # for which the prompt is refused where it is read
            return inner
        inner = (*inner[:-1], replace(last, text=last.text[: weight.start()]))
    return _times(inner, factor)


def _times(text: Text, factor: float) -> Text:
    return tuple(
        Choice(tuple(_times(option, factor) for option in part.options))
        if isinstance(part, Choice)
        else replace(part, weight=part.weight * factor)
        for part in text
    )


def _joined(part: list[Word | Choice]) -> Text:
    """Return a part with neighbouring texts of one weight as one."""
    joined: list[Word | Choice] = []
    for each in part:
        before = joined[-1] if joined else None
        if isinstance(each, Word) and isinstance(before, Word) and before.weight == each.weight:
            joined[-1] = replace(before, text=before.text + each.text)
        elif isinstance(each, Choice) or each.text:
            joined.append(each)
    return tuple(joined)
