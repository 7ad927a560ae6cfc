"""A plan leaves out what does not matter, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_cases import chains
from torch import Tensor

from optimizer.merging.engine.flat import merge_tensor
from optimizer.merging.engine.plan import PlacePlan, plan_places
from search_spaces.blocks import Architecture, places
from studies.recipe.methods import METHODS
from studies.recipe.recipe import LoraUse, Operation, Parent, Recipe, Step, canonical_values

EVERY = places(Architecture.SD15)
LETTERS = "ABCD"


def recipe_of(chain: Sequence[tuple[Operation, Sequence[float]]], weights: Mapping[str, float] | None = None) -> Recipe:
    """The same numbers in every place, but of a LoRA, which has those of the places that are named."""
    lora = LoraUse(
        name="l", sha256="1" * 64, weights=tuple((place, (weights or {}).get(place, 0.0)) for place in sorted(EVERY))
    )
    return Recipe(
        architecture="sd15",
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in LETTERS),
        steps=tuple(
            Step(operation=operation, values=canonical_values(dict.fromkeys(EVERY, tuple(values))))
            for operation, values in chain
        ),
        loras=() if weights is None else (lora,),
    )


def plan_of(*chain: tuple[Operation, Sequence[float]]) -> PlacePlan:
    plans = plan_places(recipe_of(chain))
    assert len(set(plans.values())) <= 1
    return plans["M00"]


def op(method: str, *inputs: str, clip: bool = False, seed: int = 0) -> Operation:
    return Operation(method=method, inputs=inputs, clip=clip, seed=seed)


def carried_out(plan: PlacePlan, sources: Mapping[str, Tensor], key: str = "k") -> Tensor:
    out = torch.full_like(next(iter(sources.values())), 99.0)
    merge_tensor(plan, key, {name: sources[name] for name in plan.sources}, out, out.dtype)
    return out


def parents(seed: int = 0, shape: tuple[int, ...] = (6, 10)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {letter: torch.randn(shape, generator=generator) for letter in LETTERS}


# ------------------------------------------------------------------------ an independent reference


def _weighted_sum(rows: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    total = rows[0]
    for row, ratio in zip(rows[1:], values, strict=True):
        total = (1 - ratio) * total + ratio * row
    return total


def _tasks(rows: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    return rows[0] + sum(ratio * (row - rows[0]) for row, ratio in zip(rows[1:], values, strict=True))


PLAIN: Mapping[str, Callable[[Sequence[Tensor], Sequence[float]], Tensor]] = {
    "weighted_sum": _weighted_sum,
    "sum_twice": _weighted_sum,
    "n_average": lambda rows, _: torch.stack(list(rows)).mean(dim=0),
    "add_difference": lambda rows, values: rows[0] + values[0] * (rows[1] - rows[2]),
    "triple_sum": _tasks,
    "task_arithmetic": _tasks,
}


def unpruned(recipe: Recipe, place: str, sources: Mapping[str, Tensor]) -> Tensor:
    """Every step of the chain in float64, whatever its numbers."""
    known = {name: row.double() for name, row in sources.items()}
    result = known["A"]
    for number, step in enumerate(recipe.steps, start=1):
        rows = [known[name] for name in step.operation.inputs]
        result = PLAIN[step.operation.method](rows, step.by_place[place])
        if step.operation.clip:
            result = torch.maximum(torch.minimum(result, torch.maximum(*rows[:2])), torch.minimum(*rows[:2]))
        known[f"result-{number}"] = result
    return result


@settings(max_examples=150, deadline=None)
@given(chain=chains(tuple(LETTERS), sorted(PLAIN)), data=st.data())
def test_what_is_left_gives_the_result_of_the_whole_chain(chain: tuple[Operation, ...], data: st.DataObject) -> None:
    ratio = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(-0.5, 1.5)
    recipe = recipe_of([(operation, [data.draw(ratio) for _ in operation.slots]) for operation in chain])
    sources = parents()
    result = carried_out(plan_places(recipe)["IN00"], sources)
    torch.testing.assert_close(result.double(), unpruned(recipe, "IN00", sources), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(chain=chains(tuple(LETTERS)), data=st.data())
def test_a_plan_reads_only_parents_and_makes_what_it_takes_before_it_takes_it(
    chain: tuple[Operation, ...], data: st.DataObject
) -> None:
    numbers = [[data.draw(st.sampled_from([slot.low, slot.high])) for slot in operation.slots] for operation in chain]
    plan = plan_of(*zip(chain, numbers, strict=True))
    known = set(LETTERS)
    for index, step in enumerate(plan.steps):
        assert set(step.operation.inputs) <= known
        later = {name for following in plan.steps[index + 1 :] for name in following.operation.inputs}
        assert step.result in later | {plan.final}
        known.add(step.result)
    assert plan.final in known
    assert set(plan.sources) <= set(LETTERS)


# ------------------------------------------------------------------------------------ what is left out


def odd_parents(whole: str) -> dict[str, Tensor]:
    """One parent with negative zeros; the others are NaN and infinite throughout."""
    made = parents()
    for index, letter in enumerate(LETTERS):
        made[letter][:] = torch.nan if index % 2 else torch.inf
    made[whole] = parents(5)[whole]
    made[whole].view(-1)[:7] = -0.0
    return made


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


WITH_RATIOS = [name for name, info in METHODS.items() if any(slot.kind == "ratio" for slot in info.slots(LETTERS))]
ENDING = [name for name in WITH_RATIOS if METHODS[name].ends_in]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("method", WITH_RATIOS)
def test_ratios_of_zero_are_the_first_input_itself_bit_for_bit(method: str, clip: bool) -> None:
    operation = op(method, *LETTERS[: min(METHODS[method].most_inputs, 4)], clip=clip)
    values = [0.0 if slot.kind == "ratio" else slot.high for slot in operation.slots]
    plan = plan_of((operation, values))
    assert (plan.steps, plan.final, plan.sources) == ((), "A", ("A",))
    sources = odd_parents("A")
    assert torch.equal(bits(carried_out(plan, sources)), bits(sources["A"]))


@pytest.mark.parametrize("method", ENDING)
def test_a_ratio_of_one_is_that_input_itself_bit_for_bit(method: str) -> None:
    operation = op(method, *LETTERS[: min(METHODS[method].most_inputs, 4)])
    ratios = [slot.name for slot in operation.slots if slot.kind == "ratio"]
    for wanted in operation.inputs[1:]:
        assert wanted in ratios
        values = [float(slot.name == wanted) if slot.kind == "ratio" else slot.low for slot in operation.slots]
        sources = odd_parents(wanted)
        assert torch.equal(bits(carried_out(plan_of((operation, values)), sources)), bits(sources[wanted]))


def test_a_ratio_of_one_makes_the_inputs_before_it_irrelevant() -> None:
    assert plan_of((op("weighted_sum", "A", "B", "C", "D"), (0.3, 1.0, 0.4))).sources == ("C", "D")
    assert plan_of((op("sum_twice", "A", "B", "C"), (0.3, 1.0))).sources == ("C",)


def test_with_weights_clip_a_ratio_of_one_still_stays_in_the_range_of_the_first_two() -> None:
    plan = plan_of((op("weighted_sum", "A", "B", "C", clip=True), (0.0, 1.0)))
    sources = parents()
    low, high = torch.minimum(sources["A"], sources["B"]), torch.maximum(sources["A"], sources["B"])
    assert torch.equal(carried_out(plan, sources), sources["C"].clamp(low, high))


def test_steps_that_nothing_needs_vanish() -> None:
    costly = (op("ties", "A", "B"), (1.0, 1.0, 0.5))
    assert plan_of(costly, (op("weighted_sum", "result-1", "C"), (1.0,))) == PlacePlan((), "C")
    assert plan_of(costly, (op("weighted_sum", "C", "result-1"), (0.0,))) == PlacePlan((), "C")
    left = plan_of(costly, (op("weighted_sum", "result-1", "C"), (0.5,)))
    assert [step.result for step in left.steps] == ["result-1", "result-2"]


def test_a_result_that_is_a_parent_is_read_as_that_parent() -> None:
    plan = plan_of((op("weighted_sum", "A", "B"), (1.0,)), (op("add_difference", "C", "result-1", "D"), (0.5,)))
    assert [step.operation.inputs for step in plan.steps] == [("C", "B", "D")]


def test_a_parent_folded_into_itself_stays_as_it_is() -> None:
    plan = plan_of((op("weighted_sum", "A", "B"), (0.0,)), (op("weighted_sum", "A", "result-1"), (0.5,)))
    assert plan == PlacePlan((), "A")


def test_without_steps_it_is_parent_a() -> None:
    assert plan_places(recipe_of([])) == {}
    assert set(plan_places(recipe_of([], {"M00": 1.0}))) == set(EVERY)


def test_loras_of_weight_zero_are_left_out_place_by_place() -> None:
    plans = plan_places(recipe_of([], {"M00": 0.5, "IN03": -1.0}))
    assert {place: plan.loras for place, plan in plans.items() if plan.loras} == {
        "IN03": ((0, -1.0),),
        "M00": ((0, 0.5),),
    }


def test_what_a_random_step_drops_does_not_depend_on_the_steps_before_it() -> None:
    """A ratio that happens to be 0 in one place makes a step vanish; the others drop what they dropped."""
    dropped = (op("dare_linear", "C", "D", seed=4), (1.0, 0.5))
    joined = op("weighted_sum", "result-1", "result-2")
    first = op("weighted_sum", "A", "B")
    sources = parents()
    here = plan_of((first, (0.0,)), dropped, (joined, (1.0,)))
    there = plan_of((first, (0.5,)), dropped, (op("add_difference", "result-2", "result-1", "A"), (1e-30,)))
    assert (len(here.steps), len(there.steps)) == (1, 3)
    assert torch.equal(carried_out(here, sources), carried_out(there, sources))


def test_equal_numbers_make_equal_plans_and_other_numbers_others() -> None:
    chain = (op("slerp", "A", "B"), (0.5,))
    assert plan_of(chain) == plan_of(chain)
    assert plan_of(chain) != plan_of((op("slerp", "A", "B"), (math.nextafter(0.5, 1),)))
    assert plan_of((op("dare_linear", "A", "B", seed=1), (0.5, 0.5))) != plan_of(
        (op("dare_linear", "A", "B", seed=2), (0.5, 0.5))
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_methods_that_see_one_element_at_a_time_make_elementwise_plans(method: str) -> None:
    operation = op(method, *LETTERS[: min(METHODS[method].most_inputs, 4)])
    values = [slot.high / 2 for slot in operation.slots]
    assert plan_of((operation, values)).elementwise == (METHODS[method].scope == "element")
