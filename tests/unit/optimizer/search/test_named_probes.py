"""Probes that a spec names: recipe files and block-weight presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.search.probes import Probe, make_probes
from optimizer.search.recipe_probes import check_recipe_files, with_recipes
from search_spaces.block_presets import block_preset, block_preset_names
from search_spaces.blocks import Architecture, blocks, places
from search_spaces.space import SearchSpace
from studies.errors import RecipeError, SpecError
from studies.recipe.adoption import adopt, numbers_of
from studies.recipe.blueprint import Blueprint, LoraFile
from studies.recipe.recipe import BakedVae, Parent, Recipe
from studies.spec.study import StudySpec, parse_spec

NO_EQUAL_PLACES: frozenset[str] = frozenset()
NO_OTHERS = {"uniform": [], "profiles": 0}


def spec_of(folder: Path = Path("/"), probes: Mapping[str, Any] | None = None, **changes: Any) -> StudySpec:
    data = {
        "study": "s",
        "parents": ["a.safetensors", "b.safetensors"],
        "suite": {"prompts": ["cat"]},
        "scorers": {"sharpness": None},
        "probes": {**NO_OTHERS, **(probes or {})},
    }
    return parse_spec(yaml.safe_dump(data | changes), base_dir=folder)


def blueprint_of(spec: StudySpec, architecture: Architecture = Architecture.SD15) -> Blueprint:
    return Blueprint(
        architecture=architecture,
        parents=tuple(Parent(letter=name, name=name.lower(), sha256=name.lower() * 64) for name in spec.letters),
        operations=spec.operations,
        loras=tuple(
            LoraFile(slot=name, name=name, sha256=str(number) * 64) for number, name in enumerate(spec.loras, start=1)
        ),
        vae=None if spec.vae is None else BakedVae(name="v", sha256="9" * 64),
        dtype=spec.export.dtype,
    )


def space_of(spec: StudySpec, architecture: Architecture = Architecture.SD15) -> SearchSpace:
    return spec.search_space(architecture)


def probes_of(
    spec: StudySpec, architecture: Architecture = Architecture.SD15, equal_places: frozenset[str] = NO_EQUAL_PLACES
) -> tuple[Probe, ...]:
    """As a study makes them, without the parents."""
    blueprint = blueprint_of(spec, architecture)
    made = make_probes(with_recipes(spec, blueprint), space_of(spec, architecture), blueprint, equal_places)
    return tuple(probe for probe in made if probe.origin.kind != "parent")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that stand for the study's; only where they lie matters here."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    return tmp_path


def write(path: Path, **recipe: Any) -> Path:
    path.write_text(yaml.safe_dump({"parents": ["a.safetensors", "b.safetensors"]} | recipe))
    return path


def recipe_probe(folder: Path, changes: Mapping[str, Any] | None = None, **recipe: Any) -> Probe:
    write(folder / "mine.yaml", **recipe)
    (probe,) = probes_of(spec_of(folder, {"recipes": ["mine.yaml"]}, **(changes or {})))
    return probe


class TestPresets:
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_each_is_a_probe_with_its_own_numbers_and_base_alpha(self, architecture: Architecture) -> None:
        spec = spec_of(probes={"presets": list(block_preset_names())})
        found = {str(probe.origin): probe for probe in probes_of(spec, architecture)}
        order = [f"IN{index:02d}" for index in range(12)] + ["M00"] + [f"OUT{index:02d}" for index in range(12)]
        for name in block_preset_names():
            base, *weights = block_preset(name)
            by_block = dict(zip(order, weights, strict=True))
            if architecture == Architecture.SDXL:  # its blocks keep their SD1.5 numbers, as merge extensions do
                by_block = {block: by_block[block] for block in blocks(architecture)}
            if f"preset {name}" not in found:  # equal to an earlier one, on SDXL more often
                assert any(same_numbers(probe, by_block, base) for probe in found.values()) or not any(weights)
                continue
            probe = found[f"preset {name}"]
            assert same_numbers(probe, by_block, base)
            assert probe.params is not None
            assert {block: probe.params[block] for block in by_block} == by_block

    def test_all_of_them_are_told_apart_on_sd15(self) -> None:
        probes = probes_of(spec_of(probes={"presets": list(block_preset_names())}))
        distinct = {block_preset(name) for name in block_preset_names()}
        parents = {(0.0,) * 26}
        assert len(probes) == len(distinct - parents)

    def test_what_the_space_cannot_express_is_tried_as_it_is(self) -> None:
        spec = spec_of(probes={"presets": ["GRAD_V"]}, space={"granularity": "sections"})
        (probe,) = probes_of(spec)
        assert probe.params is None
        assert probe.recipe.steps[0].by_place["IN01"] == (block_preset("GRAD_V")[2],)

    def test_other_numbers_and_the_vae_are_as_the_space_has_them(self) -> None:
        spec = spec_of(
            probes={"presets": ["GRAD_V"]},
            method="dare_linear",
            space={"parameters": {"density": [0.7, 0.9]}, "frozen": {"vae": 1.0}},
            loras={"style": {"path": "/style.safetensors", "weight": [-1.0, 0.5]}},
        )
        (probe,) = probes_of(spec)
        assert probe.params is not None
        assert (probe.params["density"], probe.params["style"]) == (0.7, 0.5)
        assert probe.recipe.steps[0].by_place["vae"][0] == 1.0

    def test_an_unknown_one_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(SpecError, match=r"'GRAD_W' is unknown.*GRAD_V"):
            spec_of(probes={"presets": ["GRAD_W"]})


def same_numbers(probe: Probe, by_block: Mapping[str, float], base: float) -> bool:
    made = probe.recipe.steps[0].by_place
    return all(made[block] == (value,) for block, value in by_block.items()) and made["text_encoder"] == (base,)


class TestRecipes:
    def test_one_of_the_space_has_its_parameters(self, folder: Path) -> None:
        probe = recipe_probe(folder, ratio={"text_encoder": 0.125, "IN*": 0.3, "M00": 0.7})
        assert str(probe.origin) == "recipe mine"
        assert probe.params is not None
        assert {probe.params[name] for name in ("IN00", "IN11")} == {0.3}
        assert (probe.params["text_encoder"], probe.params["M00"], probe.params["OUT04"]) == (0.125, 0.7, 0.0)

    @pytest.mark.parametrize(
        ("changes", "recipe"),
        [
            ({"space": {"granularity": "sections"}}, {"ratio": {"preset": "GRAD_V"}}),
            ({"space": {"bounds": {"*": [0.4, 1.0]}}}, {"ratio": 0.2}),
            ({"space": {"frozen": {"M00": 0.0}}}, {"ratio": 0.2}),
            ({}, {"ratio": {"*": 0.5, "vae": 0.5}}),
            ({}, {"method": "slerp", "ratio": 0.5}),
            ({}, {"inputs": ["B", "A"], "ratio": 0.5}),
            ({"vae": "/v.safetensors"}, {"ratio": 0.5}),
        ],
    )
    def test_one_outside_the_space_is_tried_as_it_is(
        self, folder: Path, changes: dict[str, Any], recipe: dict[str, Any]
    ) -> None:
        probe = recipe_probe(folder, changes, **recipe)
        assert probe.params is None
        (step,) = probe.recipe.steps
        assert step.operation.method == recipe.get("method", "weighted_sum")
        assert probe.recipe.vae is None

    def test_alike_places_may_have_any_ratio(self, folder: Path) -> None:
        write(folder / "mine.yaml", ratio={"*": 0.5, "vae": 0.5})
        (probe,) = probes_of(spec_of(folder, {"recipes": ["mine.yaml"]}), equal_places=frozenset({"vae"}))
        assert probe.params is not None
        assert probe.recipe.steps[0].by_place["vae"] == (0.0,)

    def test_parents_are_found_by_hash_path_or_name_in_any_order(self, folder: Path) -> None:
        (folder / "copies").mkdir()
        (folder / "copies" / "a.safetensors").symlink_to(folder / "a.safetensors")
        for parents in (
            ["b.safetensors", "a.safetensors"],
            [{"path": "other/name.ckpt", "sha256": "b" * 64}, {"path": "gone.safetensors", "sha256": "A" * 64}],
            ["/elsewhere/b.ckpt", "/elsewhere/a.safetensors"],
            ["b.safetensors", "copies/a.safetensors"],
        ):
            probe = recipe_probe(folder, parents=parents, inputs=["B", "A"], ratio=0.25)
            assert probe.params is not None, parents
            assert probe.params["IN03"] == 0.25
            assert probe.recipe.parents == blueprint_of(spec_of()).parents

    def test_a_parent_that_is_not_the_studys_is_refused_in_one_line(self, folder: Path) -> None:
        for parents in (
            ["a.safetensors", "c.safetensors"],
            ["a.safetensors", {"path": "b.safetensors", "sha256": "c" * 64}],
        ):
            spec = spec_of(folder, {"recipes": ["mine.yaml"]})
            write(folder / "mine.yaml", parents=parents, ratio=0.5)
            with pytest.raises(
                RecipeError, match=r"probes, recipe mine.yaml: parent B .* is not among the study's"
            ) as told:
                with_recipes(spec, blueprint_of(spec))
            assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            ({"ratio": 0.5, "dtype": "fp16"}, "expected the dtype .* as in parent A, got fp16"),
            ({"ratio": 0.5, "loras": ["style.safetensors"]}, "the LoRA .* is not among the study's files .none."),
            ({"ratio": 0.5, "vae": "v.safetensors"}, "the VAE .* is not among the study's files"),
        ],
    )
    def test_what_the_study_does_not_have_is_refused(self, folder: Path, recipe: dict[str, Any], message: str) -> None:
        write(folder / "mine.yaml", **recipe)
        spec = spec_of(folder, {"recipes": ["mine.yaml"]})
        with pytest.raises(RecipeError, match=f"probes, recipe mine.yaml: {message}"):
            with_recipes(spec, blueprint_of(spec))

    def test_wrong_numbers_are_refused_before_anything_is_hashed(self, folder: Path) -> None:
        write(folder / "mine.yaml", ratio={"IN99": 0.5})
        with pytest.raises(RecipeError, match=r"mine.yaml: .*IN99"):
            check_recipe_files(spec_of(folder, {"recipes": ["mine.yaml"]}), Architecture.SD15)
        with pytest.raises(RecipeError, match=r"no recipe at .*gone.yaml"):
            check_recipe_files(spec_of(folder, {"recipes": ["gone.yaml"]}), Architecture.SD15)

    def test_the_stored_spec_needs_no_file_any_more(self, folder: Path) -> None:
        spec = spec_of(folder, {"recipes": ["mine.yaml"]})
        write(folder / "mine.yaml", ratio=0.375)
        blueprint = blueprint_of(spec)
        stored = StudySpec.from_json(with_recipes(spec, blueprint).to_json())
        (folder / "mine.yaml").unlink()
        check_recipe_files(stored, Architecture.SD15)
        again = with_recipes(stored, blueprint)
        assert again == stored
        assert make_probes(again, space_of(spec), blueprint, NO_EQUAL_PLACES)[-1].params is not None
        assert stored.as_asked == spec

    def test_one_equal_to_an_earlier_probe_is_left_out(self, folder: Path) -> None:
        write(folder / "half.yaml", ratio=0.5)
        write(folder / "only-b.yaml", parents=["b.safetensors"])
        probes = {
            "uniform": [0.5],
            "recipes": ["half.yaml", "half.yaml", "only-b.yaml"],
            "presets": ["GRAD_V", "GRAD_V"],
        }
        origins = [str(probe.origin) for probe in probes_of(spec_of(folder, probes))]
        assert origins == ["uniform 0.5", "preset GRAD_V"]

    def test_order_is_uniform_recipes_presets_profiles(self, folder: Path) -> None:
        write(folder / "mine.yaml", ratio=0.1)
        probes = {"uniform": [0.5], "recipes": ["mine.yaml"], "presets": ["GRAD_V"], "profiles": 1}
        origins = [str(probe.origin) for probe in probes_of(spec_of(folder, probes))]
        assert origins == ["uniform 0.5", "recipe mine", "preset GRAD_V", "profile rising"]


CASES = st.sampled_from(
    [
        {},
        {"method": "dare_linear"},
        {"parents": ["a.safetensors", "b.safetensors", "c.safetensors"]},
        {
            "parents": ["a.safetensors", "b.safetensors", "c.safetensors"],
            "steps": [{"method": "dare_linear", "inputs": ["A", "B"]}, {"method": "slerp", "inputs": ["result", "C"]}],
            "loras": {
                "one": {"path": "/1.safetensors", "weight": [0, 1]},
                "two": {"path": "/2.safetensors", "weight": [0, 1]},
            },
        },
    ]
)


class TestRoundTrip:
    @given(case=CASES, data=st.data(), architecture=st.sampled_from(list(Architecture)))
    @settings(max_examples=40, deadline=None)
    def test_a_merge_of_a_study_is_the_same_merge_in_another_order_of_parents(
        self, case: dict[str, Any], data: st.DataObject, architecture: Architecture
    ) -> None:
        """Adopted by a blueprint whose parents and LoRAs stand in another order, and back, it is what it was."""
        spec = spec_of(**case)
        blueprint = blueprint_of(spec, architecture)
        space = space_of(spec, architecture)
        params = {row.name: data.draw(st.floats(row.low, row.high)) for row in space.parameters}
        recipe = blueprint.recipe(space.numbers_by_place(params))
        order = data.draw(st.permutations(blueprint.parents))
        other = replace(
            blueprint,
            parents=tuple(
                replace(parent, letter=letter, name="renamed") for letter, parent in zip("ABC", order, strict=False)
            ),
            loras=tuple(data.draw(st.permutations(blueprint.loras))),
        )
        there = adopt(recipe, other)
        assert there.parents == other.parents
        back = adopt(there, blueprint)
        assert back == recipe
        rows = numbers_of(back, blueprint)
        assert rows is not None
        assert {place: tuple(row) for place, row in rows.items()} == space.numbers_by_place(params)
        assert space.params(rows) == params

    @given(letter=st.sampled_from("ABC"), order=st.permutations("ABC"))
    def test_a_parent_alone_stays_that_file(self, letter: str, order: list[str]) -> None:
        blueprint = blueprint_of(spec_of(parents=["a.safetensors", "b.safetensors", "c.safetensors"]))
        other = replace(
            blueprint,
            parents=tuple(
                Parent(letter=new, name=old, sha256=old.lower() * 64) for new, old in zip("ABC", order, strict=True)
            ),
        )
        mine = adopt(blueprint.parent_alone(letter), other)
        assert file_of(mine) == letter.lower() * 64

    def test_a_recipe_of_another_architecture_is_refused(self) -> None:
        spec = spec_of()
        recipe = Recipe(architecture="sdxl", parents=blueprint_of(spec).parents)
        with pytest.raises(RecipeError, match="it merges sdxl checkpoints, the study's are sd15"):
            adopt(recipe, blueprint_of(spec))


def file_of(recipe: Recipe) -> str:
    """The sha256 of the one parent that a weighted sum with ratios of 1, or no step at all, leaves."""
    files = {parent.letter: parent.sha256 for parent in recipe.parents}
    if not recipe.steps:
        return files["A"]
    (step,) = recipe.steps
    ratios = {step.by_place[place] for place in places(Architecture(recipe.architecture))}
    assert ratios <= {(0.0,), (1.0,)}
    assert len(ratios) == 1
    return files[step.operation.inputs[int(ratios.pop()[0])]]
