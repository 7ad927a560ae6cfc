"""Shares written in percent: understood as ratios, bounds and weights, answered with the number elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_study import SMALL, short_spec

from basics.percent import from_percent
from search_spaces.block_weights import parse_block_weights
from search_spaces.blocks import Architecture
from studies.errors import SpecError
from studies.recipe.file import parse_recipe_file
from studies.spec.study import StudySpec, parse_spec


@pytest.mark.parametrize(
    ("text", "number"), [("70%", 0.7), (" -12.5 %", -0.125), ("33.3%", 0.333), ("0.7%", 0.007), (".5%", 0.005)]
)
def test_percent_is_a_hundredth_to_the_bit(text: str, number: float) -> None:
    assert from_percent(text) == number


@pytest.mark.parametrize(
    "other", ["70", "%", "70%%", "seventy%", "1e3%", "٧٠%", "7 0%", 70, None, "nan%", "9" * 99 + "%"]
)
def test_anything_else_stays_as_it_is(other: Any) -> None:
    assert from_percent(other) is other


def spec_with(**changes: Any) -> StudySpec:
    return parse_spec(yaml.safe_dump(short_spec(**{**SMALL, **changes})), base_dir=Path("/"))


def test_ratios_bounds_and_weights_of_a_spec_are_understood_and_stored_as_numbers() -> None:
    loras = {"style": {"path": "style.safetensors", "weight": ["10%", "90%"]}}
    space = {"frozen": {"OUT*": "50%"}, "bounds": {"M00": ["10%", "90%"]}}
    spec = spec_with(space=space, loras=loras, probes={"uniform": ["30%"]})
    assert spec.space.frozen == {"OUT*": 0.5}
    assert spec.space.bounds == {"M00": (0.1, 0.9)}
    assert spec.loras["style"].weight.bounds == (0.1, 0.9)
    assert spec.probes.uniform == (0.3,)
    assert "%" not in spec.to_json()


@pytest.mark.parametrize(
    "numbers", ["ratio: 30%", "ratio: {'*': 30%}", "values: {B: 30%}", f"ratio: [{', '.join(['30%'] * 26)}]"]
)
def test_so_are_the_numbers_of_a_recipe(numbers: str) -> None:
    (step,) = parse_recipe_file(f"parents: [a, b]\n{numbers}", base_dir=Path("/")).chain(Architecture.SD15)
    assert dict(step.values)["IN00"] == (0.3,)


def test_so_are_block_weights() -> None:
    ratios = parse_block_weights(",".join(["25%"] * 13 + ["0.5"] * 13), Architecture.SD15)
    assert (ratios["IN00"], ratios["OUT11"]) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"racing": {"confidence": "99%"}}, "99% is 0.99"),
        ({"budget": {"minutes": "20 %"}}, "20 % is 0.2"),
    ],
)
def test_elsewhere_the_number_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec_with(**changes)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"frozen": 0.5}, r"`space.frozen`: it names places: write `frozen: \{'\*': 0.5\}`"),
        ({"frozen": "50%"}, r"write `frozen: \{'\*': 0.5\}`"),
        ({"bounds": [0, "70%"]}, r"`space.bounds`: it names places: write `bounds: \{'\*': \[0, 0.7\]\}`"),
    ],
)
def test_numbers_without_places_are_answered_with_all_places(space: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec_with(space=space)
