from __future__ import annotations

import pytest

from basics.messages import counted, first_line, nearest, unknown_name


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


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1,200 images"), (1.0, "1 image"), (0.5, "0.5 images")],
)
def test_a_noun_agrees_with_its_number(count: float, expected: str) -> None:
    assert counted(count, "image") == expected


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert [counted(n, "U-Net pass", "U-Net passes") for n in (1, 2)] == ["1 U-Net pass", "2 U-Net passes"]


def test_the_nearest_names_come_first_whatever_their_case() -> None:
    names = ["IN00", "IN01", "OUT00", "text_encoder"]
    assert nearest("in00", names) == ["IN00"]
    assert nearest("text_encodr", [*names, "text_decoder"], count=2) == ["text_encoder", "text_decoder"]
    assert nearest("images", ["sizes", "negative"]) == []  # a few letters in common are no slip
    assert nearest("vae", names) == []


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all() -> None:
    assert unknown_name("styel", ["blocks", "style"]) == "did you mean 'style'? Known: blocks, style"
    assert unknown_name("zzz", ["blocks", "style"]) == "Known: blocks, style"
