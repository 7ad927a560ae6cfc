"""Texts that are no YAML: the message says where the writer's slip is, what it is, and what to do, without jargon."""

from __future__ import annotations

import re

import pytest

from studies.errors import SpecError
from studies.system.documents import parse_yaml

JARGON = re.compile(r"block (end|mapping|sequence)|token|stream|scalar|flow|anchor|alias|constructor|\\t")


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as raised:
        parse_yaml(text, "spec x.yaml", SpecError)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("study: a\nspace:\n\tgranularity: blocks\n", "line 3, column 1", "there is a tab"),
        ("a: [x,\n\ty]\n", "line 2, column 1", "there is a tab"),
        ("study: a\nparents [a, b]\nbudget: {trials: 3}\n", "line 2, column 1", "`parents [a, b]` has no colon"),
        ("study: a\nparents:\n- a\nprompts\nseeds: [1]\n", "line 4, column 1", "`prompts` has no colon"),
        ("study: 'a\nparents: [a]\n", "line 1, column 8", "mark ' is never closed"),
        ('suite:\n  prompts: ["a lion]\n', "line 2, column 13", 'mark " is never closed'),
        ("study: 'a\nsuite: {prompts: [a]}\nvae: 'b'\n", "line 1, column 8", "goes on to line 3"),
        ("a: 'it's'\n", "line 1, column 8", "goes on after its closing '"),
        ("study: a\nparents: [a, b\nspace: {}\n", "line 2, column 10", "bracket [ is never closed: add ]"),
        ("a: 1\nspace: {granularity: blocks\nbudget:\n", "line 2, column 8", "bracket { is never closed: add }"),
        ("seeds: [1 #2]\n", "line 1, column 8", "never closed: add ] at its end; or put a text that contains a comma"),
        ("parents: [", "line 1, column 10", "bracket [ is never closed"),
        ("a: {b: [1, 2}\n", "line 1, column 13", "a comma or the closing ] is missing"),
        ("a: [1, 2]]\n", "line 1, column 10", "] closes none that is open"),
        ("a: {b: 1}}\n", "line 1, column 10", "} closes none that is open"),
        ("a: ['x' 'y']\n", "line 1, column 9", "a comma or the closing ] is missing"),
        ("study: a\n  parents: [a]\n", "line 2, column 10", "indented more than line 1"),
        (
            "s:\n    a: b\n  c: {}\n",
            "line 3, column 3",
            "less than line 2 in a way that fits nothing (2 and 4",
        ),
        ("a: 1\n- b\n", "line 2, column 1", "an entry of a list (-) among lines `key: value`"),
        ("- b\na: 1\n", "line 2, column 1", "among the entries of a list"),
        ("a: - b\n", "line 1, column 4", "an entry of a list (-) where none may begin"),
        ("study: b\na: 1\nstudy: b\n", "line 3, column 1", "'study' is given twice, first in line 1"),
        ("a: {b: 1, c: 2, b: 3}\n", "line 1, column 17", "'b' is given twice, first in line 1"),
        ("prompts: a: b\n", "line 1, column 11", "a second colon in the line"),
        ('a: "C:\\path"\n', "line 1, column 8", "write paths in '...', or with /"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1", "a second document"),
        ("a: [b], c\n", "line 1, column 7", "a text in quotes that begins with"),
        ("a: @x\n", "line 1, column 4", "@ means something else"),
        ("a: 1\nb: *cat\n", "line 2, column 4", "* means something else"),
        ("a: 1\nb: x\x07\n", "line 2, column 5", "U+0007 is not allowed"),
    ],
)
def test_a_slip_is_told_where_it_is_and_in_words(text: str, where: str, words: str) -> None:
    message = refusal(text)
    assert f"in {where}: " in message
    assert words in message
    assert not JARGON.search(message.replace("mapping of", "")), message
