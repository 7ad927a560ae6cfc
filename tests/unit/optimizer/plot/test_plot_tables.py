"""Which merge each cell of a plot shows: grids, permutations of parents, ablations; and the order of rendering."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import PlotError
from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.plot.ablation import ablation_tables
from optimizer.plot.axes import read_axis
from optimizer.plot.base import Base, parent_base, read_base, uniform_ratio
from optimizer.plot.changes import Change, number_changes, refuse_overlaps, suite_changes
from optimizer.plot.order import in_merge_order
from optimizer.plot.permutations import permutation_tables
from optimizer.plot.tables import Cell, grid_tables
from optimizer.trial.objective import Objective
from search_spaces.blocks import Architecture, blocks, places, section_of
from search_spaces.settings import SlotSettings, SpaceSettings
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import Blueprint, LoraFile, slots_of
from studies.recipe.recipe import Operation, Parent, Recipe
from studies.spec.suite import SuiteSettings

SD15 = Architecture.SD15
SUITE = SuiteSettings.model_validate({"prompts": ["a lion", "a fox"], "seeds": [1, 2], "sizes": ["64x64"]})
OBJECTIVE = Objective(names=("objective",), directions=("maximize",), terms=())


def merge(
    letters: str = "AB", method: str = "weighted_sum", *, lora: bool = False, **settings: Any
) -> tuple[Blueprint, SearchSpace]:
    """Return a merge of parents in one step."""
    operations = (Operation(method=method, inputs=tuple(letters)),)
    parents = tuple(Parent(letter=letter, name=letter.lower(), sha256=letter * 64) for letter in letters)
    loras = (LoraFile(slot="style", name="style", sha256="0" * 64),) if lora else ()
    if lora:
        settings["parameters"] = {"style": SlotSettings(bounds=(0.0, 1.0))}
    slots = slots_of(operations, letters, ["style"] if lora else [])
    blueprint = Blueprint(architecture=SD15, parents=parents, operations=operations, loras=loras)
    return blueprint, SearchSpace.build(SpaceSettings(**settings), SD15, slots)


def number_axis(text: str, space: SearchSpace, option: str = "--x") -> tuple[Change, ...]:
    return number_changes(read_axis(text, option), space, bakes_vae=False)


def setting_axis(text: str, option: str = "--y") -> tuple[Change, ...]:
    changes = suite_changes(read_axis(text, option), SUITE)
    assert changes is not None
    return changes


def base(text: str, blueprint: Blueprint, space: SearchSpace) -> Base:
    return read_base(text, space, blueprint, None, OBJECTIVE)


def ratios(recipe: Recipe) -> dict[str, tuple[float, ...]]:
    return recipe.steps[0].by_place


def owners(recipe: Recipe) -> dict[str, str]:
    """Return the parent that each place is a copy of, as the merge engine plans it."""
    plans = plan_places(recipe)
    assert all(not plan.steps for plan in plans.values())
    return {place: plans.get(place, PlacePlan((), "A")).final for place in places(SD15)}


# -------------------------------------------------------------------------------------------- grids


def test_a_cell_has_the_numbers_of_its_column_and_row_and_those_of_the_base_elsewhere() -> None:
    blueprint, space = merge()
    axes = (number_axis("text_encoder=0:1:3", space), number_axis("OUT*=0,25%", space, "--y"), ())
    (table,) = grid_tables(base("0.5", blueprint, space).varied, SUITE, 1, axes, blueprint)
    assert table.columns == ("text_encoder 0", "text_encoder 0.5", "text_encoder 1")
    assert table.rows == ("OUT* 0", "OUT* 25%")
    for row, out in zip(table.cells, (0.0, 0.25), strict=True):
        for cell, text in zip(row, (0.0, 0.5, 1.0), strict=True):
            for place, own in ratios(cell.recipe).items():
                other = 0.0 if place == "vae" else 0.5
                assert own == ({"text_encoder": text}.get(place, out if place.startswith("OUT") else other),)


def test_settings_and_numbers_make_one_table_for_each_value_of_z() -> None:
    blueprint, space = merge()
    axes = (setting_axis("cfg=1,7"), number_axis("IN=0,1", space), setting_axis("prompt"))
    tables = grid_tables(base("A", blueprint, space).varied, SUITE, 2, axes, blueprint)
    assert [table.title for table in tables] == ["prompt 1: a lion", "prompt 2: a fox"]
    for table, prompt in zip(tables, ("a lion", "a fox"), strict=True):
        for row, ratio in zip(table.cells, (0.0, 1.0), strict=True):
            for cell, cfg in zip(row, (1.0, 7.0), strict=True):
                assert ratios(cell.recipe)["IN03"] == (ratio,)
                items = cell.suite.items()
                assert [(item.prompt, item.seed, item.sampling.cfg) for item in items] == [
                    (prompt, seed, cfg) for seed in (1, 2)
                ]


def test_a_lora_is_varied_by_its_name_and_one_block_of_it_with_a_dot() -> None:
    blueprint, space = merge(lora=True)
    axes = (number_axis("style=0,2", space), (), ())
    (table,) = grid_tables(base("0.5", blueprint, space).varied, SUITE, 1, axes, blueprint)
    assert [set(cell.recipe.loras[0].by_place.values()) for cell in table.every] == [{0.0}, {2.0}]
    (change,) = number_axis("M00.style=1", space)
    (cell,) = grid_tables(base("A", blueprint, space).varied, SUITE, 1, ((change,), (), ()), blueprint)[0].every
    assert {place for place, weight in cell.recipe.loras[0].weights if weight} == {"M00"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OUT12=0,1", "OUT11"),
        ("text_encodr=0,1", "did you mean 'text_encoder'?"),
        ("OUT.strength=0,1", "no number of this merge"),
        ("OUT=a,b", "expected a number"),
        ("OUT", "has no values"),
    ],
)
def test_an_axis_over_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(PlotError) as refused:
        number_axis(text, merge()[1])
    assert said in str(refused.value)


def test_of_several_ratios_one_must_be_named() -> None:
    _, space = merge("ABC")
    with pytest.raises(PlotError, match=r"several ratios: write OUT\.B"):
        number_axis("OUT=0,1", space)
    assert {index for change in number_axis("OUT.C=0,1", space) for _, index in change.cells} == {1}  # type: ignore[union-attr]


def test_ratios_far_beyond_the_usual_are_told() -> None:
    first, second = number_axis("OUT=0.5,50", merge()[1])
    assert first.unusual is None  # type: ignore[union-attr]
    assert "did you mean 0.5?" in str(second.unusual)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "merge_vae", "varied"),
    [("B", False, False), ("*", False, False), ("vae", False, True), ("vae.B", False, True), ("B", True, True)],
)
def test_the_vae_stays_unless_it_is_named_or_searched(name: str, merge_vae: bool, varied: bool) -> None:
    _, space = merge(merge_vae=merge_vae)
    (change,) = number_axis(f"{name}=1", space)
    assert ("vae" in {place for place, _ in change.cells}) == varied  # type: ignore[union-attr]


def test_a_ratio_of_a_vae_that_another_replaces_is_refused() -> None:
    _, space = merge()
    with pytest.raises(PlotError, match="vae changes nothing"):
        number_changes(read_axis("vae=0,1", "--x"), space, bakes_vae=True)


@pytest.mark.parametrize(("one", "other"), [("OUT*=0,1", "OUT03=0,1"), ("OUT=0,1", "*.B=0,1")])
def test_two_axes_over_the_same_numbers_are_refused(one: str, other: str) -> None:
    _, space = merge()
    with pytest.raises(PlotError, match="--x and --z both change OUT0"):
        refuse_overlaps([number_axis(one, space), number_axis(other, space)], ["--x", "--z"])


def test_two_axes_over_one_setting_are_refused_and_others_are_not() -> None:
    with pytest.raises(PlotError, match="both change cfg"):
        refuse_overlaps([setting_axis("cfg=1,2"), setting_axis("cfg scale=3")], ["--x", "--y"])
    joint, schedules = setting_axis("sampler=Euler,DPM++ 2M Karras"), setting_axis("schedule=normal,exponential")
    with pytest.raises(PlotError, match="both change schedule"):
        refuse_overlaps([joint, schedules], ["--x", "--y"])
    refuse_overlaps([setting_axis("sampler=Euler,DPM++ 2M"), setting_axis("schedule=normal,karras")], ["--x", "--y"])
    refuse_overlaps([setting_axis("cfg=1,2"), number_axis("IN=0,1", merge()[1])], ["--x", "--y"])


# --------------------------------------------------------------------------------------------- base


@pytest.mark.parametrize("letters", ["AB", "ABC"])
def test_the_uniform_merge_has_equal_parts(letters: str) -> None:
    blueprint, space = merge(letters)
    found = base(repr(uniform_ratio(space)), blueprint, space).varied
    others = found["M00"]
    assert all(ratio == pytest.approx(1 / len(letters)) for ratio in others)


def test_the_uniform_merge_keeps_what_the_space_freezes() -> None:
    blueprint, space = merge(frozen={"text_encoder": 0.1})
    numbers = base("0.5", blueprint, space).varied
    assert (numbers["text_encoder"], numbers["IN00"], numbers["vae"]) == ((0.1,), (0.5,), (0.0,))


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_a_parent_as_base_is_that_parent_everywhere_without_loras(letter: str) -> None:
    blueprint, space = merge("ABC", lora=True)
    recipe = blueprint.recipe(base(letter.lower(), blueprint, space).varied)
    assert set(owners(recipe).values()) == {letter}
    assert set(recipe.loras[0].by_place.values()) == {0.0}


def test_a_parent_that_the_steps_do_not_yield_cannot_be_varied() -> None:
    blueprint, space = merge("ABC", "add_difference")
    with pytest.raises(PlotError, match="do not yield parent C"):
        _ = base("C", blueprint, space).varied


@pytest.mark.parametrize(
    ("text", "said"), [("Z", "expected one of A, B"), ("best", "no trials"), ("trial 3", "no trials"), ("50", "0.5")]
)
def test_a_base_that_a_spec_does_not_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(PlotError) as refused:
        base(text, *merge())
    assert said in str(refused.value)


# -------------------------------------------------------------------------------------- permutations


def test_eight_assignments_for_each_parents_text_encoders_the_parents_among_them() -> None:
    blueprint, _ = merge()
    (table,) = permutation_tables(blueprint, SUITE, 1, ())
    assert table.columns == ("A A A", "A A B", "A B A", "A B B", "B A A", "B A B", "B B A", "B B B")
    for row, text in zip(table.cells, "AB", strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            of_section = dict(zip(("IN", "MID", "OUT"), column.split(), strict=True))
            owned = owners(cell.recipe)
            assert owned["text_encoder"] == text
            assert all(owned[block] == of_section[section_of(block)] for block in blocks(SD15))
    corners = [table.cells[0][0].recipe, table.cells[1][-1].recipe]
    assert corners == [blueprint.parent_alone("A"), blueprint.parent_alone("B")]
    assert len({cell.recipe.digest for cell in table.every}) == 16


def test_every_further_parent_has_its_table_whatever_the_steps_are() -> None:
    blueprint, _ = merge("ABC", "add_difference", lora=True)
    tables = permutation_tables(blueprint, SUITE, 1, ())
    assert ["(c)" in table.title for table in tables] == [False, True]
    assert set(owners(tables[1].cells[1][-1].recipe).values()) == {"C"}
    assert all(not cell.recipe.loras for table in tables for cell in table.every)


# ---------------------------------------------------------------------------------------- ablations


@pytest.mark.parametrize("letter", ["A", "B"])
def test_of_a_parent_each_place_alone_is_the_other_parents(letter: str) -> None:
    blueprint, space = merge("AB", "slerp")
    (table,) = ablation_tables(parent_base(letter, space, blueprint), space, blueprint, SUITE, 1, ())
    first, *cells = table.every
    assert table.base is first
    assert set(owners(first.recipe).values()) == {letter}
    swapped = [[place for place, owner in owners(cell.recipe).items() if owner != letter] for cell in cells]
    assert swapped == [[place] for place in places(SD15) if place != "vae"]


def test_of_a_merge_each_place_alone_is_each_parents() -> None:
    blueprint, space = merge("AB", lora=True)
    tables = ablation_tables(base("0.5", blueprint, space), space, blueprint, SUITE, 1, ())
    assert len(tables) == 2
    for table, ratio in zip(tables, (0.0, 1.0), strict=True):
        start = ratios(table.every[0].recipe)
        for cell, place in zip(table.every[1:], places(SD15), strict=False):
            assert ratios(cell.recipe) == {**start, place: (ratio,)}
            assert cell.recipe.loras == table.every[0].recipe.loras


# ------------------------------------------------------------------------------------------ the order


def cells_of(numbers: list[dict[str, float]]) -> list[Cell]:
    blueprint, _ = merge()
    recipes = [blueprint.recipe({place: (own.get(place, 0.0),) for place in places(SD15)}) for own in numbers]
    return [Cell(label=str(index), recipe=recipe, suite=SUITE) for index, recipe in enumerate(recipes)]


def test_a_text_encoder_is_merged_once_while_blocks_vary() -> None:
    blueprint, space = merge()
    axes = (number_axis("text_encoder=0:1:4", space), number_axis("M00=0:1:4", space), setting_axis("cfg=1,2"))
    tables = grid_tables(base("A", blueprint, space).varied, SUITE, 1, axes, blueprint)
    ordered = in_merge_order(cell for table in tables for cell in table.every)
    merges = [ratios(cell.recipe) for cell in ordered]
    changed = [sum(one[place] != other[place] for place in one) for one, other in pairwise(merges)]
    assert len(ordered) == 32
    assert sorted(changed) == [0] * 16 + [1] * 15, "each merge once for both settings, and one place between two merges"


ratio = st.sampled_from([0.0, 0.5, 1.0])


@given(st.lists(st.fixed_dictionaries({"text_encoder": ratio, "IN00": ratio, "OUT11": ratio}), max_size=12))
def test_every_cell_comes_once(numbers: list[dict[str, float]]) -> None:
    cells = cells_of(numbers)
    ordered = in_merge_order([*cells, *(replace(cell, label="again") for cell in cells)])
    assert len({cell.identity for cell in ordered}) == len(ordered)
    assert {cell.identity for cell in ordered} == {cell.identity for cell in cells}
