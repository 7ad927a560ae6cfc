"""Axes of a plot as they are typed."""

from __future__ import annotations

import pytest

from basics.percent import from_percent
from optimizer.errors import PlotError
from optimizer.plot.axes import number_of, read_axis


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("text_encoder=0:1:5", ("0", "0.25", "0.5", "0.75", "1")),
        ("OUT*=0,0.25, 0.5", ("0", "0.25", "0.5")),
        ("IN=0%:100%:3", ("0%", "50%", "100%")),
        ("IN=-0.5:0.5:3,2", ("-0.5", "0", "0.5", "2")),
        ("steps=10:30:3", ("10", "20", "30")),
        ("OUT=1:0:3", ("1", "0.5", "0")),
        ('prompt="a lion, golden",a fox', ("a lion, golden", "a fox")),
        ("size=512x768", ("512x768",)),
        ('negative="",bad hands', ("", "bad hands")),
        ('negative=bad hands, "" ,"say ""cheese"""', ("bad hands", "", 'say "cheese"')),
        ("seed=100000:1000001:2,7", ("100000", "1000001", "7")),
        ("seed=1000001:1000003:3", ("1000001", "1000002", "1000003")),
        ("OUT=0:1:4", ("0", "0.333333", "0.666667", "1")),
        ("OUT=0,1,", ("0", "1")),
        ("prompt=a (cat:1.2)", ("a (cat:1.2)",)),
    ],
)
def test_lists_ranges_percentages_and_texts_become_values(text: str, values: tuple[str, ...]) -> None:
    assert read_axis(text, "--x").values == values


def test_a_name_alone_stands_for_what_the_suite_has() -> None:
    axis = read_axis("prompt", "--z")
    assert (axis.name, axis.values) == ("prompt", ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("=1,2", "expected NAME=VALUES"),
        ("OUT=", "has no values"),
        ("OUT= , ", "has no values"),
        ("OUT=0:1:1", "a count of 2 or more"),
        ("OUT=0:1:100000", "100000 values"),
        ("OUT=0:100%:3", "mixes numbers with percentages"),
        ("OUT=0,0.5,0", "the value 0 twice"),
        ('prompt="a lion', "cannot be read as a list"),
        ('prompt="a lion" at noon', "cannot be read as a list"),
    ],
)
def test_what_cannot_be_an_axis_is_told_with_its_option(text: str, said: str) -> None:
    with pytest.raises(PlotError, match="--y: ") as refused:
        read_axis(text, "--y")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "number"), [("50%", 0.5), ("-12.5 %", -0.125), ("1e-1", 0.1), ("nan", None), ("inf", None), ("a", None)]
)
def test_a_percentage_is_a_share_of_one(value: str, number: float | None) -> None:
    assert number_of(value) == number


@pytest.mark.parametrize("value", ["0.07%", "29%", "57.3 %", "110%"])
def test_a_percentage_is_the_number_that_it_is_in_a_spec(value: str) -> None:
    assert number_of(value) == from_percent(value)
