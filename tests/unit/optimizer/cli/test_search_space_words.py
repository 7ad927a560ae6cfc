"""A search space in words, and times and sizes as people say them."""

from __future__ import annotations

from typing import Any

import pytest

from basics.quantities import duration, size
from optimizer.cli.views.search_space import space_in_words
from search_spaces.blocks import Architecture
from search_spaces.settings import SpaceSettings
from search_spaces.space import SearchSpace
from studies.recipe.methods import METHODS


def words(method: str = "weighted_sum", letters: str = "AB", **settings: Any) -> dict[str, str]:
    slots = METHODS[method].slots(letters)
    return dict(space_in_words(SearchSpace.build(SpaceSettings(**settings), Architecture.SD15, slots)))


def test_equal_bounds_are_said_once() -> None:
    assert words() == {"bounds": "0 to 100 % of B everywhere", "frozen": "0 % of B, so A's own: vae"}


def test_bounds_that_differ_are_said_of_their_blocks() -> None:
    found = words(bounds={"IN*": (0, 0.7), "M00": (-0.5, 1.25)})
    assert found["bounds"] == (
        "0 to 100 % of B: text_encoder, OUT00 to OUT11; 0 to 70 % of B: IN00 to IN11; -50 to 125 % of B: M00"
    )


def test_frozen_numbers_are_said_by_their_value() -> None:
    found = words(frozen={"text_encoder": 0, "OUT11": 0.5, "OUT10": 0.5})
    assert found["frozen"] == "0 % of B, so A's own: text_encoder, vae; 50 % of B: OUT10, OUT11"


def test_groups_are_said_with_their_places() -> None:
    found = words(groups={"ends": ("IN0[0-2]", "OUT11")})
    assert found["groups"] == "ends is one number for IN00 to IN02, OUT11"


def test_a_parameter_of_a_method_is_no_share() -> None:
    found = words("dare_linear", granularity="uniform", parameters={"density": (0.1, 0.9)})
    assert found["bounds"].endswith("density 0.1 to 0.9: one number for all")


def test_parents_have_shares_of_their_own() -> None:
    found = words(letters="ABC", granularity="uniform", bounds={"*.C": (0, 0.3)})
    assert "0 to 30 % of C" in found["bounds"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.004, "0.01 seconds"), (0.42, "0.42 seconds"), (1, "1 second"), (59.6, "60 seconds"), (119, "119 seconds"),
     (200, "3 minutes"), (3600, "1 h"), (7800, "2 h 10 min"), (45000, "12 h"), (180000, "2 days 2 h")],
)  # fmt: skip
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(10, "less than 1 MB"), (340e6, "340 MB"), (6.46e9, "6.5 GB")])
def test_sizes_are_said_as_people_say_them(count: float, said: str) -> None:
    assert size(int(count)) == said
