"""Random methods of the time before they named their random numbers: read as they were, never merged otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.merging.engine.plan import plan_places
from search_spaces.blocks import Architecture, places
from studies.errors import RecipeError, SpecError, StudyChangedError
from studies.recipe.adoption import adopt
from studies.recipe.blueprint import Blueprint
from studies.recipe.file import RecipePaths, parse_recipe_file, recipe_text
from studies.recipe.methods import METHODS
from studies.recipe.recipe import DRAWS, FORMER_DRAWS, Operation, Parent, Recipe, Step, canonical_values
from studies.spec.fingerprints import refuse_changed_spec
from studies.spec.former import as_now, refuse_other_merges
from studies.spec.study import StudySpec, parse_spec

RANDOM = [name for name, info in METHODS.items() if info.random]
PARENTS = tuple(Parent(letter=letter, name=letter, sha256=letter.lower() * 64) for letter in "AB")
OTHER = "random numbers of another version"


def spec_of(**changes: Any) -> StudySpec:
    data = {"study": "s", "parents": ["/a.safetensors", "/b.safetensors"], "suite": {"prompts": ["a"]}}
    return parse_spec(yaml.safe_dump(data | {"scorers": {"sharpness": None}} | changes), base_dir=Path("/"))


def stored_before(spec: StudySpec) -> str:
    """The spec as a version stored it that knew no `draws`."""
    return json.dumps({key: value for key, value in json.loads(spec.to_json()).items() if key != "draws"})


def recipe_of(method: str, ratio: float = 0.5) -> Recipe:
    operation = Operation(method=method, inputs=("A", "B"), seed=3)
    row = tuple(ratio if slot.kind == "ratio" else slot.default for slot in operation.slots)
    values = canonical_values(dict.fromkeys(places(Architecture.SD15), row))
    return Recipe(architecture="sd15", parents=PARENTS, steps=(Step(operation=operation, values=values),))


def recipe_before(method: str, ratio: float = 0.5) -> Recipe:
    """The recipe as a version stored it that knew no `draws`."""
    data = json.loads(recipe_of(method, ratio).to_json())
    for step in data["steps"]:
        step.pop("draws", None)
    return Recipe.from_json(json.dumps(data))


CHAINS: list[dict[str, Any]] = [
    {"method": "dare_linear"},
    {"method": "della"},
    {"steps": [{"method": "slerp"}, {"method": "dare_ties", "inputs": ["result", "B"]}]},
]


class TestSpecs:
    @pytest.mark.parametrize("chain", CHAINS, ids=str)
    def test_a_stored_one_keeps_its_numbers_and_does_not_go_on(self, chain: dict[str, Any]) -> None:
        text = stored_before(spec_of(**chain))
        stored = StudySpec.from_json(text)
        assert stored.draws == FORMER_DRAWS
        assert as_now(as_now(text)) == as_now(text)
        assert StudySpec.from_json(stored.to_json()) == stored
        with pytest.raises(StudyChangedError, match=f"{OTHER}.*start a new study"):
            refuse_other_merges(stored.operations)

    @pytest.mark.parametrize("chain", CHAINS, ids=str)
    def test_one_of_this_version_goes_on(self, chain: dict[str, Any]) -> None:
        stored = StudySpec.from_json(spec_of(**chain).to_json())
        assert stored == spec_of(**chain)
        refuse_other_merges(stored.operations)

    @pytest.mark.parametrize("chain", [{}, {"method": "ties"}, {"steps": [{"method": "slerp", "seed": 4}]}], ids=str)
    def test_a_stored_one_without_random_methods_is_what_it_was(self, chain: dict[str, Any]) -> None:
        stored = StudySpec.from_json(stored_before(spec_of(**chain)))
        assert stored == spec_of(**chain)
        refuse_other_merges(stored.operations)

    def test_its_unchanged_file_is_not_called_changed(self) -> None:
        stored = StudySpec.from_json(stored_before(spec_of(method="della")))
        refuse_changed_spec(stored, spec_of(method="della"))
        with pytest.raises(StudyChangedError, match="`draws`"):
            refuse_changed_spec(stored, spec_of(method="della", draws=DRAWS))

    @pytest.mark.parametrize("steps", [3, [3], [{"method": ["dare_ties"]}], [{}], {"method": "dare_ties"}], ids=str)
    def test_malformed_steps_are_left_to_their_reader(self, steps: Any) -> None:
        with pytest.raises(SpecError):
            StudySpec.from_json(json.dumps(json.loads(stored_before(spec_of())) | {"steps": steps, "method": "slerp"}))


class TestRecipes:
    @pytest.mark.parametrize("method", RANDOM)
    def test_a_stored_one_keeps_its_digest_and_is_merged_by_nobody(self, method: str) -> None:
        former, now = recipe_before(method), recipe_of(method)
        assert "draws" not in former.to_json()
        assert Recipe.from_json(former.to_json()) == former
        assert former.digest != now.digest
        with pytest.raises(RecipeError, match=OTHER):
            plan_places(former)
        plan_places(now)

    @pytest.mark.parametrize("method", RANDOM)
    def test_one_whose_ratios_are_all_0_is_its_first_input_as_ever(self, method: str) -> None:
        former = recipe_before(method, 0.0)
        assert all(not plan.steps for plan in plan_places(former).values())
        assert adopt(former, Blueprint(architecture=Architecture.SD15, parents=PARENTS, operations=())) == former

    @pytest.mark.parametrize("method", ["slerp", "ties", "weighted_sum"])
    def test_one_without_random_methods_is_stored_and_read_as_ever(self, method: str) -> None:
        assert "draws" not in recipe_of(method).to_json()
        assert recipe_before(method) == recipe_of(method)
        plan_places(recipe_before(method))

    def test_numbers_of_a_version_to_come_are_refused_too(self) -> None:
        later = Recipe.from_json(recipe_of("della").to_json().replace(DRAWS, "squares"))
        with pytest.raises(RecipeError, match=r"squares, this one draws by philox4x64"):
            plan_places(later)

    def test_a_new_study_does_not_adopt_it(self) -> None:
        blueprint = Blueprint(architecture=Architecture.SD15, parents=PARENTS, operations=())
        assert adopt(recipe_of("della"), blueprint) == recipe_of("della")
        with pytest.raises(RecipeError, match=OTHER):
            adopt(recipe_before("della"), blueprint)


def parse(data: dict[str, Any], **changes: Any) -> Recipe:
    file = parse_recipe_file(yaml.safe_dump(data | changes), base_dir=Path("/"))
    return file.recipe(Architecture.SD15, PARENTS)


class TestRecipeFiles:
    @pytest.mark.parametrize("method", RANDOM)
    def test_what_is_written_is_read_back_with_its_numbers(self, method: str) -> None:
        paths = RecipePaths(parents={letter: Path(f"/{letter}.safetensors") for letter in "AB"})
        for recipe in (recipe_of(method), recipe_before(method)):
            text = recipe_text(recipe, paths)
            assert yaml.safe_load(text)["draws"] == recipe.steps[0].operation.draws
            read = parse_recipe_file(text, base_dir=Path("/")).recipe(Architecture.SD15, PARENTS)
            assert read.steps[0].operation == recipe.steps[0].operation

    @pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
    def test_one_that_an_earlier_version_wrote_must_say_which_numbers_are_meant(self, method: str) -> None:
        data = {"parents": [{"path": "a.safetensors", "sha256": "a" * 64}, "b.safetensors"], "method": method}
        with pytest.raises(RecipeError, match=f"{method} drops elements.*write `draws: {DRAWS}`"):
            parse(data, ratio=0.5)
        assert parse(data, ratio=0.5, draws=DRAWS).steps[0].operation.draws == DRAWS

    def test_one_written_by_hand_need_not(self) -> None:
        data = {"parents": ["a.safetensors", "b.safetensors"], "method": "dare_linear", "ratio": 0.5}
        plan_places(parse(data))

    def test_other_methods_need_not(self) -> None:
        data = {"parents": [{"path": "a.safetensors", "sha256": "a" * 64}, "b.safetensors"], "method": "slerp"}
        plan_places(parse(data, ratio=0.5))

    def test_an_unknown_generator_is_refused(self) -> None:
        data = {"parents": ["a.safetensors", "b.safetensors"], "method": "dare_linear", "ratio": 0.5}
        with pytest.raises(RecipeError, match="draws"):
            parse(data, draws="squares")
