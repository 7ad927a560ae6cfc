"""Recipes as values: stored and read back without loss, refused when they cannot be merged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.errors import RecipeError
from studies.recipe import METHODS, Parent, Recipe, canonical_ratios

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    method = draw(st.sampled_from(sorted(METHODS)))
    info = METHODS[method]
    letters = tuple("ABC"[: draw(st.integers(info.least_parents, info.most_parents))])
    parents = tuple(Parent(letter=letter, name=draw(text), sha256=draw(digests)) for letter in letters)
    slots = len(info.slots(letters))
    ratios = draw(st.dictionaries(text, st.tuples(*[finite] * slots), max_size=8))
    return Recipe(
        architecture=draw(st.sampled_from(["sd15", "sdxl"])),
        method=method,
        parents=parents,
        ratios=canonical_ratios(ratios),
        dtype=draw(st.sampled_from([None, "fp16", "bf16", "fp32"])),
    )


A = Parent(letter="A", name="a", sha256="a" * 64)
B = Parent(letter="B", name="b", sha256="b" * 64)
C = Parent(letter="C", name="c", sha256="c" * 64)
SIMPLE = Recipe(architecture="sd15", method="weighted_sum", parents=(A, B), ratios=(("IN00", (0.25,)), ("M00", (0.1,))))


@given(recipes())
def test_a_stored_recipe_comes_back_equal(recipe: Recipe) -> None:
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert hash(back) == hash(recipe)
    assert back.digest == recipe.digest


@given(recipes(), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_places(recipe: Recipe, random: Any) -> None:
    shuffled = list(recipe.ratios)
    random.shuffle(shuffled)
    assert replace(recipe, ratios=canonical_ratios(dict(shuffled))).digest == recipe.digest


def test_the_digest_is_the_sha256_of_the_stored_text() -> None:
    assert SIMPLE.digest == hashlib.sha256(SIMPLE.to_json().encode()).hexdigest()


def test_the_stored_text_is_plain_json_with_nothing_left_out() -> None:
    assert json.loads(SIMPLE.to_json()) == {
        "architecture": "sd15",
        "method": "weighted_sum",
        "parents": [
            {"letter": "A", "name": "a", "sha256": "a" * 64},
            {"letter": "B", "name": "b", "sha256": "b" * 64},
        ],
        "ratios": {"IN00": [0.25], "M00": [0.1]},
        "dtype": None,
    }


@pytest.mark.parametrize(
    "other",
    [
        replace(SIMPLE, architecture="sdxl"),
        replace(SIMPLE, parents=(B, A)),
        replace(SIMPLE, parents=(A, replace(B, name="renamed"))),
        replace(SIMPLE, parents=(A, replace(B, sha256="c" * 64))),
        replace(SIMPLE, ratios=(("IN00", (0.25,)),)),
        replace(SIMPLE, ratios=(("IN00", (0.25,)), ("M00", (0.1000000000000001,)))),
        replace(SIMPLE, dtype="fp16"),
    ],
)
def test_recipes_that_differ_have_different_digests(other: Recipe) -> None:
    assert other.digest != SIMPLE.digest


def test_slots_are_the_other_parents_or_the_difference() -> None:
    assert METHODS["weighted_sum"].slots(("A", "B")) == ("B",)
    assert METHODS["weighted_sum"].slots(("A", "B", "C")) == ("B", "C")
    assert METHODS["add_difference"].slots(("A", "B", "C")) == ("difference",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "median"}, "median.*weighted_sum"),
        ({"parents": (A,)}, "2 to 3 parents, got 1"),
        ({"parents": (A, B, C, replace(C, letter="D"))}, "2 to 3 parents, got 4"),
        ({"method": "add_difference"}, "add_difference takes 3 .*parents, got 2"),
        ({"parents": (A, B, C)}, "IN00 has 1 ratios.*needs 2"),
        ({"ratios": (("IN00", (0.1, 0.2)),)}, "IN00 has 2 ratios.*needs 1"),
        ({"ratios": (("IN00", ()),)}, "IN00 has 0 ratios.*needs 1"),
    ],
)
def test_a_recipe_that_its_method_cannot_merge_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        replace(SIMPLE, **change)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), float("-inf")])
def test_a_ratio_that_is_no_number_is_refused(ratio: float) -> None:
    with pytest.raises(RecipeError, match="IN00"):
        replace(SIMPLE, ratios=(("IN00", (ratio,)),))


def test_a_place_that_is_given_twice_is_refused() -> None:
    """It would be stored once only, and another merge would come back."""
    with pytest.raises(RecipeError, match="IN00"):
        replace(SIMPLE, ratios=(("IN00", (0.1,)), ("IN00", (0.2,))))


def _without(key: str) -> str:
    data = json.loads(SIMPLE.to_json())
    del data[key]
    return json.dumps(data)


def _with(**changes: Any) -> str:
    return json.dumps(json.loads(SIMPLE.to_json()) | changes)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        *[_without(key) for key in ("architecture", "method", "parents", "ratios", "dtype")],
        _with(ratios=[1]),
        _with(ratios={"IN00": 5}),
        _with(ratios={"IN00": ["x"]}),
        _with(parents=[{"letter": "A"}]),
        _with(parents=[1, 2]),
        _with(parents={"A": 1, "B": 2}),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(stored: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(stored)
    assert "\n" not in str(caught.value)
