"""Texts that YAML does not read as texts: prompts, names and paths that need quotes.

YAML takes `2024` for a number, `yes` for true, `masterpiece: a lion` for a mapping, and what follows ` #` for a
comment. The messages quote what is written, which the values no longer tell: `yes` and `true` are equal.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from string import ascii_uppercase
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from basics.names import plain
from studies.system.documents import yaml_tree

TEXT_EXPECTED: Final = frozenset({"string_type", "path_type"})  # pydantic's findings where a text should stand
KEY: Final = "[key]"  # pydantic's last step to a key of a mapping
NOUNS: Final = {"prompt": "prompt", "negative": "negative prompt", "study": "name", KEY: "name"}  # by the field
FREE_TEXTS: Final = frozenset({"prompts", "prompt", "negative", "study", "parents", "recipes", "path", "vae"})
LETTERS: Final = {letter: place for place, letter in enumerate(ascii_uppercase)}  # of parents in a list
STRING: Final = "tag:yaml.org,2002:str"
SHOWN: Final = 60  # characters of a text in a message
_ANCHOR: Final = re.compile(r"&([^\s,\[\]{}]+)[ \t]")
_CUT_OFF: Final = re.compile(r"[ \t]+(#\S.*)")  # a comment written like one has a space after its sign


def unquoted_text(error: ValidationError, source: str) -> str | None:
    """Say which value should be a text and was not read as one; None where that is not what is wrong.

    Args:
        source: the YAML or JSON that was validated.
    """
    root = _tree(source)
    if root is None:
        return None
    for finding in error.errors(include_url=False):
        if finding["type"] in TEXT_EXPECTED:
            return _explain(finding, source, root)
    return None


def _tree(source: str) -> yaml.Node | None:
    """Return what a text consists of as YAML; None where it is none, or empty. JSON nearly always is YAML too."""
    try:
        return yaml_tree(source)
    except (yaml.YAMLError, RecursionError):
        return None


def quotes_for_prompt(error: ValidationError, source: str) -> str:
    """Return the advice to put a prompt in quotes where one was read as a setting and its text (`seed: a lion`).

    Args:
        source: the YAML or JSON that was validated.

    Returns:
        The end of a message; empty where nothing looks like it.
    """
    root = _tree(source)
    if root is None:
        return ""
    for finding in error.errors(include_url=False):
        *steps, _ = finding["loc"] or ("",)
        if len(steps) > 1 and steps[-2] == "prompts":
            pairs = _pairs(_node_at(root, tuple(steps), None)[0])
            if len(pairs) == 1 and pairs[0][1].tag == STRING and not _is_quoted(pairs[0][1]):
                (key, value), *_ = pairs
                written = source[key.start_mark.index : value.end_mark.index]
                return f"; if {_shortened(written)} is a prompt, put it in quotes{_as(written)}"
    return ""


def _is_quoted(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is not None


def _explain(finding: ErrorDetails, source: str, root: yaml.Node) -> str:
    found, steps = _node_at(root, finding["loc"], finding["input"])
    where = f"`{'.'.join(map(str, steps))}`"
    noun = NOUNS.get(str(finding["loc"][-1]), "path" if finding["type"] == "path_type" else "text")
    written = source[found.start_mark.index : found.end_mark.index].strip()
    line = found.start_mark.line + 1
    if finding["input"] is None and not written:
        return f"{where}: no {noun} in line {line}: write it, in quotes if it begins with #, or remove the line"
    kind = _kind(finding["input"])
    return f"{where}: YAML reads {_shortened(written)} in line {line} as {kind}: put the {noun} in quotes{_as(written)}"


def _as(written: str) -> str:
    """Return how a text is written in quotes, if it is short enough to be shown."""
    if len(written) > SHOWN or "\n" in written:
        return ""
    quoted = f"'{written.replace(chr(39), 2 * chr(39))}'" if {'"', "\\"} & set(written) else f'"{written}"'
    return f": {quoted}"


def _shortened(written: str) -> str:
    line = " ".join(written.split())
    return f"`{line if len(line) <= SHOWN else line[:SHOWN] + '...'}`"


def _kind(value: Any) -> str:
    """Name what YAML has read, in the words of a spec."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, dt.date):
        return "a date"
    return "a mapping (`key: value`)" if isinstance(value, Mapping) else "a list"


def _node_at(node: yaml.Node, steps: tuple[int | str, ...], value: Any) -> tuple[yaml.Node, list[int | str]]:
    """Follow the steps as far as the YAML has them; a short form leaves out the last.

    Args:
        value: the key that is meant where the last step is `KEY`.

    Returns:
        The node, and the steps that lead to it.
    """
    taken = list[int | str]()
    for number, step in enumerate(steps):
        if steps[number + 1 :] == (KEY,):
            return next((key for key, _ in _pairs(node) if _value_of(key) == value), node), taken
        inner = _inner(node, step)
        if inner is None:
            break
        node = inner
        taken.append(step)
    return node, taken


def _inner(node: yaml.Node, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode):
        place = step if isinstance(step, int) else LETTERS.get(step, -1)
        return node.value[place] if 0 <= place < len(node.value) else None
    return next((value for key, value in _pairs(node) if plain(key.value) == step), None)


def _value_of(key: yaml.Node) -> Any:
    """Return what a key stands for: a quoted one for its text."""
    if not isinstance(key, yaml.ScalarNode):
        return None
    return key.value if key.style is not None else yaml.safe_load(key.value)


def _pairs(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


# ------------------------------------------------------------------------------------------ comments


def cut_texts(source: str) -> list[str]:
    """Say which prompts, names and paths lack a part that YAML does not take for text.

    That is what follows a `#`, where only a sign without a space after it is suspicious: `lion #1`, but not `lion # my
    favourite`. And it is an anchor before the text (`&cat lion`) that no alias refers to.
    """
    root = _tree(source)
    if root is None:  # said by who reads it
        return []
    found = []
    for text in _free_texts(root, free=False):
        anchor = _ANCHOR.match(source, text.start_mark.index)
        if anchor is not None and f"*{anchor[1]}" not in source:
            found.append(_left_out(text, f"{_shortened(f'&{anchor[1]}')} for an anchor"))
        comment = _CUT_OFF.match(source, text.end_mark.index)
        if comment is not None:
            found.append(_left_out(text, f"{_shortened(comment[1])} for a comment"))
    return found


def _left_out(text: yaml.ScalarNode, what: str) -> str:
    line = text.start_mark.line + 1
    then = "if it belongs to the text, put all of it in quotes"
    return f"line {line}: YAML takes {what}, so the text is {_shortened(text.value)}; {then}"


def _free_texts(node: yaml.Node | None, *, free: bool) -> Iterator[yaml.ScalarNode]:
    """Yield the texts without quotes under the keys of `FREE_TEXTS`.

    Args:
        free: whether the node itself is under one.
    """
    if isinstance(node, yaml.ScalarNode) and free and node.style is None:
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _free_texts(each, free=free)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _free_texts(value, free=isinstance(key, yaml.ScalarNode) and key.value in FREE_TEXTS)
