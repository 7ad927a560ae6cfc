"""Texts of others in Markdown: a reader of CommonMark shows them as they are."""

from __future__ import annotations

import html

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from basics.markdown import escaped
from basics.texts import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x1b[1;1Hb", "a\\\\x1b\\[2J\\\\x1b\\[1;1Hb"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("a | b\n| c |", "a \\| b \\| c \\|"),
        ("[click](http://evil)", "\\[click\\](http://evil)"),
        ("clip_score and _this_", "clip\\_score and \\_this\\_"),
        ("{.cls}", "\\{.cls\\}"),
    ],
)
def test_nothing_of_a_text_is_markup(text: str, shown: str) -> None:
    assert escaped(text) == shown


@given(st.text())
@example("_a_ *b* **c** ~~d~~ `e` [f](g) ![h](i) <j> &amp; \\k \\")
def test_a_reader_shows_the_text_in_one_line(text: str) -> None:
    reader = MarkdownIt("commonmark").enable("strikethrough")
    assert html.unescape(reader.renderInline(escaped(text))) == " ".join(visible(text).split())
