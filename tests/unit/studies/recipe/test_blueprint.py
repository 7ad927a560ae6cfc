"""Blueprints: numbers of a search <-> steps and LoRAs, slots with names of their own, and each parent alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.engine.flat import merge_tensor
from optimizer.merging.engine.plan import plan_places
from search_spaces.blocks import Architecture, places
from studies.errors import RecipeError
from studies.recipe.blueprint import Blueprint, LoraFile, alone_numbers, slots_of
from studies.recipe.methods import METHODS
from studies.recipe.recipe import BakedVae, Operation, Parent, Recipe

SD15 = Architecture.SD15
PARENTS = tuple(Parent(letter=letter, name=letter.lower(), sha256=letter * 64) for letter in "ABCD")


def op(method: str, *inputs: str) -> Operation:
    return Operation(method=method, inputs=inputs)


def blueprint(*operations: Operation, **others: Any) -> Blueprint:
    return Blueprint(architecture=SD15, parents=PARENTS, operations=operations, **others)


def names(*operations: Operation, loras: Sequence[str] = ()) -> list[str]:
    return [slot.name for slot in slots_of(operations, "ABCD", loras)]


# ------------------------------------------------------------------------------------------- slots


class TestSlots:
    def test_they_come_step_by_step_and_loras_last(self) -> None:
        found = slots_of([op("ties", "A", "B"), op("slerp", "result-1", "C")], "ABC", ["style"])
        assert [(slot.name, slot.kind) for slot in found] == [
            ("B", "parameter"),
            ("strength", "ratio"),
            ("density", "parameter"),
            ("C", "ratio"),
            ("style", "lora"),
        ]

    def test_a_name_that_several_steps_have_gets_the_number_of_its_step(self) -> None:
        assert names(op("weighted_sum", "A", "B"), op("weighted_sum", "result-1", "B", "C")) == ["B-1", "B-2", "C"]
        assert names(op("n_average", "A", "C"), op("slerp", "A", "B"), op("slerp", "result-2", "result-1")) == [
            "B",
            "result-1",
        ]

    def test_two_steps_with_parameters_of_one_name_keep_them_apart(self) -> None:
        found = names(op("dare_linear", "A", "B"), op("dare_linear", "result-1", "C"))
        assert found == ["B", "density-1", "C", "density-2"]

    def test_a_lora_weighs_1_unless_the_search_says_otherwise(self) -> None:
        (slot,) = slots_of([], "A", ["style"])
        assert (slot.kind, slot.default) == ("lora", 1.0)
        assert slot.allows(-2.0)

    def test_steps_that_do_not_fit_together_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="'C', which does not exist"):
            slots_of([op("weighted_sum", "A", "C")], "AB")


# -------------------------------------------------------------------------------------------- rows


@given(data=st.data())
def test_a_row_is_dealt_out_to_its_steps_and_loras(data: st.DataObject) -> None:
    operations = (op("ties", "A", "B"), op("n_average", "result-1", "C"), op("slerp", "result-2", "D"))
    files = tuple(LoraFile(slot=f"l{index}", name=f"lora {index}", sha256=str(index) * 64) for index in range(2))
    row = st.tuples(*[st.floats(0, 1)] * 6)
    rows = {place: data.draw(row) for place in places(SD15)}
    recipe = blueprint(*operations, loras=files).recipe(rows)
    assert tuple(step.operation for step in recipe.steps) == operations
    assert [(lora.name, lora.sha256) for lora in recipe.loras] == [(row.name, row.sha256) for row in files]
    for place in places(SD15):
        parts = (*(step.by_place[place] for step in recipe.steps), tuple(lora.by_place[place] for lora in recipe.loras))
        assert [len(part) for part in parts] == [3, 0, 1, 2]
        assert tuple(number for part in parts for number in part) == rows[place]


def test_a_recipe_has_the_blueprints_parents_vae_and_dtype() -> None:
    vae = BakedVae(name="v", sha256="e" * 64)
    recipe = blueprint(op("slerp", "A", "B"), vae=vae, dtype="bf16").recipe(dict.fromkeys(places(SD15), (0.5,)))
    assert (recipe.architecture, recipe.parents, recipe.vae, recipe.dtype) == ("sd15", PARENTS, vae, "bf16")


@pytest.mark.parametrize("row", [(), (0.5, 0.5, 0.5)])
def test_rows_with_too_few_or_too_many_numbers_are_refused(row: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError):
        blueprint(op("weighted_sum", "A", "B", "C")).recipe(dict.fromkeys(places(SD15), row))


# ------------------------------------------------------------------------------------ parents alone


def made(recipe: Recipe, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The merge of one small tensor in every place; without any numbers it is parent A."""
    results = {}
    for place, plan in plan_places(recipe).items():
        results[place] = torch.empty_like(sources["A"])
        merge_tensor(plan, "k", {name: sources[name] for name in plan.sources}, results[place], torch.float32)
    return results or dict.fromkeys(places(SD15), sources["A"])


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {letter: torch.randn(4, 6, generator=generator) for letter in "ABCD"}


@pytest.mark.parametrize("letter", "ABCD")
def test_a_parent_alone_is_that_parent_without_vae_and_loras(letter: str) -> None:
    study = blueprint(
        op("add_difference", "A", "B", "C"),
        loras=(LoraFile(slot="l", name="l", sha256="1" * 64),),
        vae=BakedVae(name="v", sha256="e" * 64),
        dtype="fp16",
    )
    alone, sources = study.parent_alone(letter), tensors()
    assert (alone.loras, alone.vae, alone.dtype, alone.parents) == ((), None, "fp16", PARENTS)
    assert all(torch.equal(row, sources[letter]) for row in made(alone, sources).values())


CHAINS: tuple[tuple[tuple[Operation, ...], str], ...] = (  # (steps, the parents that ratios can give)
    ((op("weighted_sum", "A", "B", "C", "D"),), "ABCD"),
    ((op("weighted_sum", "C", "A"),), "CA"),
    ((op("sum_twice", "A", "B", "C"),), "ABC"),
    ((op("slerp", "A", "B"),), "AB"),
    ((op("tensor_sum", "B", "D"),), "BD"),
    ((op("geometric", "A", "B"), op("slerp", "result-1", "C")), "ABC"),
    ((op("weighted_sum", "A", "B"), op("weighted_sum", "C", "D"), op("slerp", "result-1", "result-2")), "ABCD"),
    ((op("weighted_sum", "A", "B"), op("add_difference", "result-1", "C", "D")), "AB"),
    ((op("add_difference", "A", "B", "C"), op("weighted_sum", "D", "result-1")), "AD"),
    ((op("add_difference", "A", "B", "C"),), "A"),
    ((op("ties", "A", "B", "C"),), "A"),
    ((op("dare_linear", "B", "A"),), "B"),
    ((op("triple_sum", "A", "B", "C"),), "A"),
    ((op("n_average", "A", "B"),), ""),
    ((op("n_average", "A", "B", "C"), op("weighted_sum", "A", "result-1")), "A"),
    ((op("weighted_sum", "A", "B"), op("n_average", "result-1", "C")), ""),
    ((op("model_stock", "A", "B", "C"), op("slerp", "D", "result-1"), op("slerp", "result-2", "B")), "DB"),
    ((), "A"),
)


@pytest.mark.parametrize(("operations", "wanted"), CHAINS)
def test_ratios_that_give_a_parent_alone_really_do_whatever_the_other_numbers(
    operations: tuple[Operation, ...], wanted: str
) -> None:
    sources = tensors()
    slots = slots_of(operations, "ABCD")
    for letter in "ABCD":
        row = alone_numbers(operations, "ABCD", letter)
        assert (row is not None) == (letter in wanted), letter
        if row is None:
            continue
        assert [value is None for value in row] == [slot.kind != "ratio" for slot in slots]
        for end in ("low", "high"):
            numbers = tuple(
                getattr(slot, end) if value is None else value for slot, value in zip(slots, row, strict=True)
            )
            recipe = blueprint(*operations).recipe(dict.fromkeys(places(SD15), numbers))
            assert all(torch.equal(result, sources[letter]) for result in made(recipe, sources).values())


def test_results_of_the_examples_differ() -> None:
    """Else being one of the parents would say nothing."""
    assert not any(torch.equal(one, other) for one, other in pairwise(tensors().values()))


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.ends_in])
def test_every_method_that_ends_in_its_inputs_can_give_each_of_them(method: str) -> None:
    inputs = "ABCD"[: min(METHODS[method].most_inputs, 4)]
    for letter in inputs:
        assert alone_numbers([op(method, *inputs)], "ABCD", letter) is not None
