from __future__ import annotations

import pytest

from basics.messages import first_line, nearest, unknown_name


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  spaced  \nmore"), "spaced  "),
        (ValueError("windows\r\nmore"), "windows"),
        (ValueError(), "ValueError"),
        (TimeoutError(" \n "), "TimeoutError"),
    ],
)
def test_an_error_has_one_line_even_where_it_says_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_nearest_names_come_first_whatever_their_case() -> None:
    names = ["IN00", "IN01", "OUT00", "text_encoder"]
    assert nearest("in00", names) == ["IN00"]
    assert nearest("text_encodr", [*names, "text_decoder"], count=2) == ["text_encoder", "text_decoder"]
    assert nearest("images", ["sizes", "negative"]) == []  # a few letters in common are no slip
    assert nearest("vae", names) == []


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all() -> None:
    assert unknown_name("styel", ["blocks", "style"]) == "did you mean 'style'? Known: blocks, style"
    assert unknown_name("zzz", ["blocks", "style"]) == "Known: blocks, style"
