"""Recipes as values: stored and read back without loss, refused when they cannot be merged."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.blocks import Architecture, places
from search_spaces.slots import LARGEST, Slot
from studies.errors import RecipeError
from studies.recipe.methods import ANY_NUMBER, METHODS
from studies.recipe.recipe import (
    BakedVae,
    LoraUse,
    Operation,
    Parent,
    PlaceValues,
    Recipe,
    Step,
    canonical_values,
    check_operations,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(-LARGEST, LARGEST)
EVERY = places(Architecture.SD15)


def numbers_of(slot: Slot) -> st.SearchStrategy[float]:
    return st.floats(slot.least, slot.most)


@st.composite
def steps(draw: st.DrawFn, letters: tuple[str, ...], number: int, every: tuple[str, ...]) -> Step:
    """Step `number`, which takes what the one before it made."""
    info = METHODS[draw(st.sampled_from([name for name in METHODS if METHODS[name].least_inputs <= len(letters)]))]
    count = draw(st.integers(info.least_inputs, max(info.least_inputs, min(info.most_inputs, len(letters)))))
    names = [*([f"result-{number - 1}"] if number > 1 else []), *draw(st.permutations(letters))]
    operation = Operation(
        method=info.name,
        inputs=tuple(names[:count]),
        clip=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
    row = st.tuples(*[numbers_of(slot) for slot in operation.slots])
    usual, special = draw(row), draw(st.dictionaries(st.sampled_from(every), row, max_size=2))
    return Step(operation=operation, values=canonical_values(dict.fromkeys(every, usual) | special))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    architecture = draw(st.sampled_from(list(Architecture)))
    every = places(architecture)
    letters = tuple("ABCD"[: draw(st.integers(1, 4))])
    count = draw(st.integers(0, 3)) if len(letters) > 1 else 0
    return Recipe(
        architecture=architecture.value,
        parents=tuple(Parent(letter=letter, name=draw(text), sha256=draw(digests)) for letter in letters),
        steps=tuple(draw(steps(letters, number, every)) for number in range(1, count + 1)),
        loras=tuple(
            LoraUse(
                name=draw(text),
                sha256=draw(digests),
                weights=tuple((place, draw(finite) if place in {"IN00", "vae"} else 1.0) for place in sorted(every)),
            )
            for _ in range(draw(st.integers(0, 2)))
        ),
        vae=draw(st.none() | st.builds(BakedVae, name=text, sha256=digests)),
        dtype=draw(st.sampled_from([None, "fp16", "bf16", "fp32"])),
    )


A = Parent(letter="A", name="a", sha256="a" * 64)
B = Parent(letter="B", name="b", sha256="b" * 64)
C = Parent(letter="C", name="c", sha256="c" * 64)
SUM = Operation(method="weighted_sum", inputs=("A", "B"))


def everywhere(*row: float, **different: tuple[float, ...]) -> PlaceValues:
    return canonical_values(dict.fromkeys(EVERY, row) | different)


def step(operation: Operation, *row: float, **different: tuple[float, ...]) -> Step:
    return Step(operation=operation, values=everywhere(*row, **different))


LORA = LoraUse(name="l", sha256="d" * 64, weights=tuple((place, 0.5) for place in sorted(EVERY)))
SIMPLE = Recipe(architecture="sd15", parents=(A, B), steps=(step(SUM, 0.25),))


# ------------------------------------------------------------------------------------- round trips


@given(recipes())
def test_a_stored_recipe_comes_back_equal(recipe: Recipe) -> None:
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert hash(back) == hash(recipe)
    assert back.digest == recipe.digest


@given(recipes())
def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_spaces(recipe: Recipe) -> None:
    def backwards(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: backwards(data[key]) for key in reversed(data)}
        return [backwards(row) for row in data] if isinstance(data, list) else data

    written_anew = json.dumps(backwards(json.loads(recipe.to_json())), indent=2)
    assert Recipe.from_json(written_anew).digest == recipe.digest


def test_the_digest_is_the_sha256_of_the_stored_text() -> None:
    assert SIMPLE.digest == hashlib.sha256(SIMPLE.to_json().encode()).hexdigest()


def test_the_stored_text_is_plain_json_with_nothing_left_out() -> None:
    chain = replace(
        SIMPLE,
        parents=(A, B, C),
        steps=(
            step(Operation(method="dare_linear", inputs=("A", "B", "C"), seed=5), 0.1, 0.2, 0.5, M00=(0.1, 0.3, 0.5)),
            step(Operation(method="add_difference", inputs=("result-1", "B", "A"), clip=True), 1.0),
        ),
        loras=(LORA,),
        vae=BakedVae(name="v", sha256="e" * 64),
        dtype="bf16",
    )
    assert json.loads(chain.to_json()) == {
        "architecture": "sd15",
        "parents": [{"letter": row.letter, "name": row.name, "sha256": row.sha256} for row in (A, B, C)],
        "steps": [
            {
                "method": "dare_linear",
                "inputs": ["A", "B", "C"],
                "clip": False,
                "seed": 5,
                "draws": "philox4x64",
                "values": {"B": 0.1, "C": dict.fromkeys(EVERY, 0.2) | {"M00": 0.3}, "density": 0.5},
            },
            {
                "method": "add_difference",
                "inputs": ["result-1", "B", "A"],
                "clip": True,
                "seed": 0,
                "values": {"difference": 1.0},
            },
        ],
        "loras": [{"name": "l", "sha256": "d" * 64, "weight": 0.5}],
        "vae": {"name": "v", "sha256": "e" * 64},
        "dtype": "bf16",
    }


@given(finite, finite)
def test_a_number_stands_once_exactly_if_it_is_alike_in_all_places(usual: float, other: float) -> None:
    recipe = replace(SIMPLE, steps=(step(SUM, usual, OUT03=(other,)),))
    stored = json.loads(recipe.to_json())["steps"][0]["values"]["B"]
    assert stored == (usual if usual == other else dict.fromkeys(EVERY, usual) | {"OUT03": other})


def test_a_number_may_be_spelt_out_for_every_place() -> None:
    data = json.loads(SIMPLE.to_json())
    data["steps"][0]["values"]["B"] = dict.fromkeys(reversed(EVERY), 0.25)
    assert Recipe.from_json(json.dumps(data)) == SIMPLE


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1.0, 1)])
def test_equal_numbers_make_equal_digests(one: float, other: float) -> None:
    for values in (
        everywhere(other),
        tuple((place, (other,)) for place in sorted(EVERY)),
        everywhere(one, M00=(other,)),
    ):
        same = replace(SIMPLE, steps=(Step(operation=SUM, values=values),))
        assert same == replace(SIMPLE, steps=(step(SUM, one),))
        assert same.digest == replace(SIMPLE, steps=(step(SUM, one),)).digest


@pytest.mark.parametrize(
    "other",
    [
        replace(SIMPLE, parents=(A, B, C)),
        replace(SIMPLE, parents=(A, replace(B, name="renamed"))),
        replace(SIMPLE, parents=(A, replace(B, sha256="c" * 64))),
        replace(SIMPLE, steps=()),
        replace(SIMPLE, steps=(step(SUM, 0.25, M00=(0.2500000000000001,)),)),
        replace(SIMPLE, steps=(step(replace(SUM, inputs=("B", "A")), 0.25),)),
        replace(SIMPLE, steps=(step(replace(SUM, clip=True), 0.25),)),
        replace(SIMPLE, steps=(step(replace(SUM, seed=1), 0.25),)),
        replace(SIMPLE, steps=(step(replace(SUM, method="task_arithmetic"), 0.25),)),
        replace(SIMPLE, steps=(*SIMPLE.steps, step(replace(SUM, inputs=("result-1", "B")), 0.25))),
        replace(SIMPLE, loras=(LORA,)),
        replace(SIMPLE, loras=(LORA, LORA)),
        replace(SIMPLE, vae=BakedVae(name="v", sha256="e" * 64)),
        replace(SIMPLE, dtype="fp16"),
    ],
)
def test_recipes_that_differ_have_different_digests(other: Recipe) -> None:
    assert other.digest != SIMPLE.digest


def test_the_methods_are_told_in_their_order() -> None:
    chain = replace(SIMPLE, steps=(*SIMPLE.steps, step(Operation(method="slerp", inputs=("A", "result-1")), 0.5)))
    assert chain.method == "weighted_sum, then slerp"
    assert replace(SIMPLE, steps=()).method == "parent A"


# ------------------------------------------------------------------------------------------ slots


def test_slots_are_the_other_inputs_and_what_the_step_has_of_its_own() -> None:
    def names(method: str, *inputs: str) -> list[str]:
        return [slot.name for slot in Operation(method=method, inputs=inputs).slots]

    assert names("weighted_sum", "A", "B") == ["B"]
    assert names("weighted_sum", "B", "result-1", "A") == ["result-1", "A"]
    assert names("add_difference", "A", "B", "C") == ["difference"]
    assert names("dare_ties", "A", "B", "C") == ["B", "C", "strength", "density"]
    assert names("n_average", "A", "B") == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_all_that_is_needed_of_it(name: str) -> None:
    info = METHODS[name]
    assert info.name == name
    assert info.formula
    assert info.source
    assert 2 <= info.least_inputs <= info.most_inputs <= ANY_NUMBER
    for slot in info.slots("ABC"[: info.most_inputs]):
        assert slot.kind in {"ratio", "parameter"}
        assert slot.low < slot.high
        assert all(slot.allows(value) for value in (slot.low, slot.high, slot.default))
        assert slot.kind == "parameter" or slot.allows(0.0)
    assert not info.ends_in or info.per_input is not None  # an input that a ratio ends in has that ratio


# --------------------------------------------------------------------------------------- refusals


def chain(*operations: Operation) -> dict[str, Any]:
    return {"steps": tuple(step(row, *(slot.default for slot in row.slots)) for row in operations)}


def op(method: str, *inputs: str) -> Operation:
    return Operation(method=method, inputs=inputs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "sd3"}, "unknown architecture 'sd3'.*sd15.*sdxl"),
        ({"parents": ()}, "at least one parent"),
        ({"parents": (B, A)}, "A, B, C ... in order, got B, A"),
        ({"parents": (A, A)}, "in order, got A, A"),
        ({"parents": (A, C)}, "in order, got A, C"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'.*fp16, bf16, fp32"),
        (
            {"steps": (Step(operation=op("median", "A", "B"), values=()),)},
            "unknown merge method 'median'.*weighted_sum",
        ),
        (chain(op("weighted_sum", "A")), r"step 1 \(weighted_sum\) takes 2 or more inputs, got A"),
        (chain(op("n_average")), "takes 2 or more inputs, got none"),
        (chain(op("add_difference", "A", "B")), "takes 3 inputs, got A, B"),
        (chain(op("slerp", "A", "B", "C")), "takes 2 inputs, got A, B, C"),
        (chain(op("weighted_sum", "A", "D")), "'D', which does not exist.*: use A, B"),
        (chain(op("weighted_sum", "A", "result-1")), "step 1 .*'result-1', which does not exist"),
        (
            chain(SUM, op("weighted_sum", "result-2", "A")),
            "step 2 .*'result-2', which does not exist.*: use A, B, result-1",
        ),
        (chain(op("weighted_sum", "A", "B", "A")), "takes an input twice: A, B, A"),
        (chain(SUM, op("slerp", "A", "B")), "result-1 is not used by any later step"),
        (chain(SUM, SUM, op("slerp", "A", "result-2")), "result-1 is not used by any later step"),
        (
            {"steps": (step(SUM, 0.1, IN00=(0.1, 0.2)),)},
            r"step 1 \(weighted_sum\): IN00 has 2 numbers, it needs 1 \(B\)",
        ),
        ({"steps": (step(SUM, 0.1, IN00=()),)}, "IN00 has 0 numbers, it needs 1"),
        ({"steps": (step(op("n_average", "A", "B"), 0.1),)}, r"has 1 number, it needs 0 \(none\)"),
        ({"steps": (step(SUM, 0.1, IN12=(0.1,)),)}, "every place needs its numbers exactly once, wrong for IN12"),
        ({"steps": (Step(operation=SUM, values=everywhere(0.1)[1:]),)}, "wrong for IN00"),
        ({"steps": (Step(operation=SUM, values=(("IN00", (0.2,)), *everywhere(0.1))),)}, "wrong for IN00"),
        ({"steps": (step(op("slerp", "A", "B"), 0.5, M00=(1.5,)),)}, "B is 1.5 in M00, expected .*0 to 1"),
        ({"steps": (step(SUM, 0.5, M00=(math.nan,)),)}, "B is nan in M00, expected any finite number"),
        ({"steps": (step(SUM, 0.5, M00=(math.inf,)),)}, "B is inf in M00"),
        ({"steps": (step(SUM, 0.5, M00=(-math.inf,)),)}, "B is -inf in M00"),
        ({"steps": (step(SUM, 0.5, M00=(3.4028234663852890e38,)),)}, "B is 3.402823466385289e[+]38 in M00"),
        ({"steps": (step(SUM, 0.5, M00=(-1e300,)),)}, "B is -1e[+]300 in M00"),
        ({"loras": (replace(LORA, weights=LORA.weights[1:]),)}, "LoRA l: every place.*IN00"),
        ({"loras": (replace(LORA, weights=(("IN00", math.nan), *LORA.weights[1:])),)}, "LoRA l: weight is nan in IN00"),
    ],
)
def test_a_recipe_that_cannot_be_merged_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        replace(SIMPLE, **change)
    assert "\n" not in str(caught.value)


def test_a_result_may_go_into_several_later_steps() -> None:
    check_operations(
        [SUM, op("slerp", "result-1", "C"), op("add_difference", "result-2", "result-1", "A")], ["A", "B", "C"]
    )


def _stored(**changes: Any) -> str:
    """SIMPLE's text with changed keys, or without those that are `...`."""
    data: Mapping[str, Any] = json.loads(SIMPLE.to_json()) | changes
    return json.dumps({key: value for key, value in data.items() if value is not ...})


def _parents(first: Mapping[str, Any]) -> str:
    return _stored(parents=[first, *json.loads(SIMPLE.to_json())["parents"][1:]])


def _step(**changes: Any) -> str:
    data: Mapping[str, Any] = json.loads(SIMPLE.to_json())["steps"][0] | changes
    return _stored(steps=[{key: value for key, value in data.items() if value is not ...}])


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        *[_stored(**{key: ...}) for key in json.loads(SIMPLE.to_json())],
        *[_step(**{key: ...}) for key in ("method", "inputs", "clip", "seed", "values")],
        _stored(architecture="sd3"),
        _stored(parents=[{"letter": "A"}]),
        _stored(parents=[1, 2]),
        _stored(parents={"A": 1, "B": 2}),
        *[_parents({"letter": "A", "name": "a", "sha256": "0", key: [1]}) for key in ("letter", "name", "sha256")],
        _stored(steps=[1]),
        _stored(vae={"name": "v"}),
        _stored(vae={"name": "v", "sha256": ["0"]}),
        _stored(loras=[{"name": "l", "sha256": ["0"], "weight": 1.0}]),
        _stored(loras=[{"name": "l", "sha256": "0", "weight": {"IN00": 1.0}}]),
        _step(method="median"),
        _step(values=[1]),
        _step(values={}),
        _step(values={"B": "x"}),
        _step(values={"B": None}),
        _step(values={"B": {"IN00": 0.5}}),
        _step(values={"B": 0.5, "C": 0.5}),
        _step(values={"B": 10**400}),
        _step(values={"B": math.nan}),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(stored: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(stored)
    assert "\n" not in str(caught.value)
