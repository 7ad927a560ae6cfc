"""Prompt editing and alternating words, as A1111 has them: texts that change while an image is sampled.

    [from:to:when]   from, and after step `when` to; one of both may be empty
    [to:when]        nothing, and after step `when` to
    [from::when]     from, and after step `when` nothing
    [a|b|c]          a, b, c, a, ... in turns, one for each step

`when` is a share of the steps if it has a decimal point, and else a number of steps. A second pass goes on counting:
steps from those of the first, and shares from 1. The rules are those of A1111's modules/prompt_parser.py; what it
counts are calls of the denoiser, of which some samplers make two for a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from optimizer.rendering.prompts.brackets import pairs
from optimizer.rendering.prompts.pieces import misread
from studies.spec.brackets import CLOSING, OPENING

Kind = Literal["edited", "alternating", "attention", "other"]
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Brackets with what stands in them: parts, with a colon or a bar between one and the next."""

    start: int  # of its opening bracket in the prompt
    bracket: str
    parts: tuple[tuple[_Node, ...], ...]
    separators: tuple[str, ...]
    strays: bool  # whether a bracket that closes nothing stands in it

    @cached_property
    def kind(self) -> Kind:
        """What the brackets mean; `other` for those that A1111's grammar does not have, which are text."""
        groups = [node for part in self.parts for node in part if isinstance(node, _Group)]
        colons, bars = self.separators.count(":"), self.separators.count("|")
        if self.strays or (colons and bars) or any(group.kind == "other" for group in groups):
            return "other"
        if self.bracket == "(":
            return "attention" if colons <= 1 and not bars else "other"
        if bars:
            return "alternating"
        if colons:
            return "edited" if colons <= 2 and self.when is not None else "other"
        return "attention"

    @cached_property
    def when(self) -> str | None:
        """The number in the last part; None if it is none."""
        last = self.parts[-1]
        number = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        return None if number is None else number[1]

    def last_call(self, calls: int, before: int | None) -> int:
        """Return the last call of the denoiser that gets the text before the change.

        Args:
            calls, before: as for `phases`.
        """
        when = self.when or ""
        number = float(when)
        if "." in when:
            number = (number if before is None else number - 1) * calls
        else:
            number -= before or 0
        return int(max(-1.0, min(calls, number)))

    def inner(self) -> Iterator[_Group]:
        """Yield the groups in it, at every depth."""
        for part in self.parts:
            yield from _groups(part)


_Node = str | _Group


def holding_at(ends: Sequence[int], call: int) -> int:
    """Return the place of the text that holds at a call of the denoiser, as A1111 counts.

    Args:
        ends: the last call of each text. A call after all of them gets the first text again.
        call: from 0.
    """
    return next((place for place, end in enumerate(ends) if call <= end), 0)


def phases(prompt: str, calls: int, before: int | None = None) -> tuple[tuple[int, str], ...]:
    """Return the texts that a prompt stands for, each with the last call of the denoiser that gets it.

    Calls are compared as `holding_at` does, so the first text of [a:b:5] holds for six calls.

    Args:
        calls: of the denoiser for an image in a pass: the steps, or twice as many for a sampler that makes two each.
        before: those of the first pass, if this is the second.

    Raises:
        PromptError: brackets do not fit together, or a bar outside of square brackets keeps A1111 from reading those.
    """
    tree = _tree(prompt)
    groups = tuple(_groups(tree))
    changing = [group for group in groups if group.kind in {"edited", "alternating"}]
    if not changing:
        return ((calls, prompt),)
    _refuse_bars(prompt, tree, changing[0])
    edits = [group for group in changing if group.kind == "edited"]
    ends = {calls} | {call for edit in edits if (call := edit.last_call(calls, before)) >= 1}
    if any(group.kind == "alternating" for group in changing):
        ends |= set(range(1, calls + 1))
    return tuple((end, "".join(_at(tree, end, calls, before))) for end in sorted(ends))


def unreached(prompt: str, calls: int, made: int, before: int | None = None) -> tuple[str, ...]:
    """Return the edits of a prompt whose second text no call of the denoiser gets in a pass, as they are written.

    Args:
        calls, before: as for `phases`.
        made: how many calls there are.

    Raises:
        PromptError: brackets do not fit together.
    """
    closings = pairs(prompt)
    edits = [group for group in _groups(_tree(prompt)) if group.kind == "edited"]
    last = min(made - 1, calls)  # calls after all that are counted get the first texts
    late = [edit for edit in edits if edit.last_call(calls, before) >= last]
    return tuple(prompt[edit.start : closings[edit.start] + 1] for edit in late)


def _tree(prompt: str) -> tuple[_Node, ...]:
    """Return a prompt as texts and groups.

    Raises:
        PromptError: brackets do not fit together.
    """
    (nodes,), _, _ = _parts(prompt, 0, len(prompt), pairs(prompt), divided=False)
    return nodes


def _parts(
    prompt: str, start: int, end: int, closings: Mapping[int, int], *, divided: bool = True
) -> tuple[tuple[tuple[_Node, ...], ...], tuple[str, ...], bool]:
    """Return the parts between two positions, the separators between them, and whether there is a stray bracket.

    Args:
        closings: see `pairs`.
        divided: whether colons and bars divide; they do not outside of brackets.
    """
    parts: list[tuple[_Node, ...]] = []
    separators: list[str] = []
    nodes: list[_Node] = []
    strays, position, text = False, start, start
    while position < end:
        character = prompt[position]
        if position in closings:
            nodes += [prompt[text:position], _group(prompt, position, closings)]
            position = text = closings[position] + 1
            continue
        strays = strays or character in OPENING
        if divided and character in ":|":
            parts.append(_without_empty([*nodes, prompt[text:position]]))
            separators.append(character)
            nodes, text = [], position + 1
        position += 2 if character == "\\" else 1
    parts.append(_without_empty([*nodes, prompt[text:end]]))
    return tuple(parts), tuple(separators), strays


def _group(prompt: str, start: int, closings: Mapping[int, int]) -> _Group:
    parts, separators, strays = _parts(prompt, start + 1, closings[start], closings)
    return _Group(start=start, bracket=prompt[start], parts=parts, separators=separators, strays=strays)


def _without_empty(nodes: Sequence[_Node]) -> tuple[_Node, ...]:
    return tuple(node for node in nodes if node != "")


def _groups(nodes: Sequence[_Node]) -> Iterator[_Group]:
    """Yield all groups, at every depth."""
    for node in nodes:
        if isinstance(node, _Group):
            yield node
            yield from node.inner()


def _refuse_bars(prompt: str, tree: Sequence[_Node], changing: _Group) -> None:
    """Refuse a prompt that changes and has a bar which stands between no alternating words.

    Raises:
        PromptError: it has one.
    """
    loose = any(isinstance(node, str) and "|" in re.sub(r"\\.", "", node, flags=re.DOTALL) for node in tree)
    if loose or any("|" in group.separators for group in _groups(tree) if group.kind == "other"):
        raise misread(
            prompt,
            changing.start,
            "A1111 reads no square brackets in a prompt with a | outside of [a|b]: take that | out, or write \\|",
        )


def _at(nodes: Sequence[_Node], call: int, calls: int, before: int | None) -> Iterator[str]:
    """Yield the texts that hold for a call of the denoiser; see `phases`."""
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif node.kind == "edited":
            old, new = ((), *node.parts[:-1])[-2:]
            yield from _at(old if call <= node.last_call(calls, before) else new, call, calls, before)
        elif node.kind == "alternating":
            yield from _at(node.parts[(call - 1) % len(node.parts)], call, calls, before)
        else:
            yield node.bracket
            for part, separator in zip(node.parts, (*node.separators, CLOSING[node.bracket]), strict=True):
                yield from _at(part, call, calls, before)
                yield separator
