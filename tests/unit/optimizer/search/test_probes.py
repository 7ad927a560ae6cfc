"""The trials every study begins with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.search.probes import Probe, make_probes
from search_spaces.blocks import Architecture, blocks, text_encoders
from search_spaces.settings import SpaceSettings
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import Blueprint, LoraFile, slots_of
from studies.recipe.recipe import BakedVae, Parent, Recipe
from studies.spec.study import StudySpec

NO_EQUAL_PLACES: frozenset[str] = frozenset()


def spec_of(parents: int = 2, method: str | None = None, seed: int = 0, **changes: Any) -> StudySpec:
    """Whatever is no setting of probes is a key of the spec."""
    probes = {name: changes.pop(name) for name in ("uniform", "profiles") if name in changes}
    return StudySpec.model_validate(
        {
            "study": "s",
            "parents": [f"/{letter}.safetensors" for letter in "abcd"[:parents]],
            "suite": {"prompts": ["cat"]},
            "scorers": {"sharpness": None},
            "sampler": {"seed": seed},
            "probes": probes,
            **({} if method is None else {"method": method}),
            **changes,
        },
        context={"base_dir": Path("/")},
    )


def space_of(
    spec: StudySpec, architecture: Architecture = Architecture.SD15, *, vae: bool = False, **space: Any
) -> tuple[SearchSpace, Blueprint]:
    settings = SpaceSettings(**space) if space else spec.full_space
    blueprint = Blueprint(
        architecture=architecture,
        parents=tuple(Parent(letter=letter, name=letter.lower(), sha256=letter * 64) for letter in spec.letters),
        operations=spec.operations,
        loras=tuple(LoraFile(slot=name, name=name, sha256="1" * 64) for name in spec.loras),
        vae=BakedVae(name="v", sha256="2" * 64) if vae else None,
    )
    slots = slots_of(spec.operations, spec.letters, tuple(spec.loras))
    return SearchSpace.build(settings, architecture, slots), blueprint


def probes_of(
    spec: StudySpec,
    architecture: Architecture = Architecture.SD15,
    equal_places: frozenset[str] = NO_EQUAL_PLACES,
    **space: Any,
) -> tuple[Probe, ...]:
    return make_probes(spec, *space_of(spec, architecture, **space), equal_places)


def numbers_of(probe: Probe) -> Mapping[str, tuple[float, ...]]:
    """The numbers of a recipe of one step."""
    (step,) = probe.recipe.steps
    return step.by_place


def whole_parent(recipe: Recipe) -> str | None:
    """The parent that a recipe is, if it is one in every place."""
    plans = set(plan_places(recipe).values()) or {PlacePlan((), "A")}
    (plan,) = plans if len(plans) == 1 else (None,)
    return plan.final if plan is not None and not plan.steps and not plan.loras and recipe.vae is None else None


def by_name(probes: tuple[Probe, ...]) -> Mapping[str, Probe]:
    return {str(probe.origin): probe for probe in probes}


class TestOrder:
    def test_parents_then_uniform_then_profiles(self) -> None:
        assert [str(probe.origin) for probe in probes_of(spec_of(3))] == [
            *("parent A", "parent B", "parent C"),
            *("uniform 0.25", "uniform 0.5", "uniform 0.75"),
            *("profile rising", "profile falling", "profile hill", "profile valley"),
            *("profile smooth 1", "profile smooth 2"),
        ]

    def test_fewer_profiles_or_none_can_be_asked_for(self) -> None:
        names = [str(probe.origin) for probe in probes_of(spec_of(uniform=[0.1], profiles=2))]
        assert names == ["parent A", "parent B", "uniform 0.1", "profile rising", "profile falling"]
        names = [str(probe.origin) for probe in probes_of(spec_of(uniform=[], profiles=0))]
        assert names == ["parent A", "parent B"]

    @pytest.mark.parametrize("granularity", ["uniform", "sections", "blocks"])
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_no_merge_is_tried_twice(self, architecture: Architecture, granularity: str) -> None:
        probes = probes_of(spec_of(), architecture, granularity=granularity)
        assert len({probe.recipe.digest for probe in probes}) == len(probes)
        assert len({probe.origin for probe in probes}) == len(probes)

    def test_a_profile_that_is_level_in_this_space_is_the_uniform_probe(self) -> None:
        """Rising and falling both have the mean .5, and one ratio is all that the U-Net has here."""
        probes = probes_of(spec_of(), granularity="uniform")
        values = [tuple(round(value, 4) for value in probe.params.values()) for probe in probes if probe.params]
        assert len(set(values)) == len(values)
        assert not {"profile rising", "profile falling"} & by_name(probes).keys()

    def test_the_seed_decides_the_random_profiles_only(self) -> None:
        one, other = probes_of(spec_of(seed=1)), probes_of(spec_of(seed=2))
        assert one == probes_of(spec_of(seed=1))
        different = [str(a.origin) for a, b in zip(one, other, strict=True) if a != b]
        assert different == ["profile smooth 1", "profile smooth 2"]


class TestParents:
    @pytest.mark.parametrize("architecture", list(Architecture))
    @pytest.mark.parametrize("count", [2, 3])
    def test_a_parents_recipe_is_the_whole_parent(self, architecture: Architecture, count: int) -> None:
        probes = by_name(probes_of(spec_of(count), architecture))
        for letter in "ABC"[:count]:
            assert whole_parent(probes[f"parent {letter}"].recipe) == letter

    def test_b_is_outside_a_space_that_keeps_the_vae_of_a(self) -> None:
        probes = by_name(probes_of(spec_of()))
        assert probes["parent A"].params is not None
        assert probes["parent B"].params is None

    def test_b_is_inside_a_space_that_merges_the_vae(self) -> None:
        params = by_name(probes_of(spec_of(), merge_vae=True))["parent B"].params
        assert params is not None
        assert set(params.values()) == {1.0}

    def test_b_is_inside_when_both_vaes_are_alike(self) -> None:
        probe = by_name(probes_of(spec_of(), equal_places=frozenset({"vae"})))["parent B"]
        assert probe.params is not None
        assert set(probe.params.values()) == {1.0}
        assert numbers_of(probe)["vae"] == (0.0,)
        assert all(ratios == (1.0,) for place, ratios in numbers_of(probe).items() if place != "vae")

    def test_an_alike_place_does_not_help_where_another_frozen_one_differs(self) -> None:
        probe = by_name(probes_of(spec_of(), equal_places=frozenset({"vae"}), frozen={"text_encoder": 0.0}))["parent B"]
        assert probe.params is None
        assert whole_parent(probe.recipe) == "B"

    def test_bounds_that_leave_a_parent_out_leave_it_without_parameters(self) -> None:
        probes = by_name(probes_of(spec_of(), merge_vae=True, bounds={"*": (0.2, 0.8)}))
        assert probes["parent A"].params is None
        assert probes["parent B"].params is None
        assert [whole_parent(probes[f"parent {letter}"].recipe) for letter in "AB"] == ["A", "B"]

    def test_what_is_added_and_its_base_are_no_add_difference(self) -> None:
        probes = by_name(probes_of(spec_of(3, "add_difference")))
        first = probes["parent A"]
        assert first.params is not None
        assert set(first.params.values()) == {0.0}
        for letter in "ABC":
            assert whole_parent(probes[f"parent {letter}"].recipe) == letter
        assert probes["parent B"].params is None
        assert probes["parent C"].params is None


CHAIN = [
    {"method": "dare_linear", "inputs": ["A", "B"]},
    {"method": "weighted_sum", "inputs": ["result-1", "C"]},
]
STYLE = {"style": {"path": "/style.safetensors", "weight": [-1.0, 1.0]}}


class TestOtherNumbers:
    """Parameters of methods, weights of LoRAs, chains, and a VAE that is baked in."""

    def test_the_parents_a_chain_can_give_are_inside_its_space(self) -> None:
        probes = by_name(probes_of(spec_of(3, steps=CHAIN), merge_vae=True))
        params = {letter: probes[f"parent {letter}"].params for letter in "ABC"}
        assert params["A"] is not None
        assert set(params["A"].values()) == {0.0}
        assert params["B"] is None  # an added difference never ends in B itself
        assert params["C"] is not None
        assert {name.rpartition(".")[2]: value for name, value in params["C"].items()} == {"B": 0.0, "C": 1.0}
        assert [whole_parent(probes[f"parent {letter}"].recipe) for letter in "ABC"] == ["A", "B", "C"]

    def test_a_method_without_ratios_leaves_the_parents_without_parameters(self) -> None:
        steps = [
            {"method": "n_average", "inputs": ["A", "B"]},
            {"method": "weighted_sum", "inputs": ["A", "result-1"]},
        ]
        probes = by_name(probes_of(spec_of(2, steps=steps), merge_vae=True))
        assert probes["parent A"].params is not None
        assert probes["parent B"].params is None
        assert whole_parent(probes["parent B"].recipe) == "B"

    def test_a_searched_lora_weighs_nothing_in_a_parent_alone(self) -> None:
        probes = by_name(probes_of(spec_of(loras=STYLE), equal_places=frozenset({"vae"})))
        for letter, ratio in (("A", 0.0), ("B", 1.0)):
            probe = probes[f"parent {letter}"]
            assert probe.params is not None
            assert probe.params["style"] == 0.0
            assert {value for name, value in probe.params.items() if name != "style"} == {ratio}
            assert {weight for _, weight in probe.recipe.loras[0].weights} == {0.0}

    @pytest.mark.parametrize("weight", [0.8, [0.2, 1.0]])
    def test_a_lora_that_cannot_be_left_out_leaves_the_parents_without_parameters(self, weight: Any) -> None:
        loras = {"style": {"path": "/style.safetensors", "weight": weight}}
        for letter, probe in zip("AB", probes_of(spec_of(loras=loras), equal_places=frozenset({"vae"})), strict=False):
            assert probe.params is None
            assert whole_parent(probe.recipe) == letter

    def test_a_baked_vae_is_in_every_probe_but_the_parents(self) -> None:
        for probe in probes_of(spec_of(), equal_places=frozenset({"vae"}), vae=True):
            if probe.origin.kind == "parent":
                assert probe.params is None
                assert whole_parent(probe.recipe) == probe.origin.parent
            else:
                assert probe.params is not None
                assert probe.recipe.vae is not None

    def test_uniform_probes_take_searched_parameters_and_loras_as_they_are_by_default(self) -> None:
        spec = spec_of(2, "dare_linear", loras=STYLE, space={"parameters": {"density": [0.2, 0.9]}})
        params = by_name(probes_of(spec))["uniform 0.25"].params
        assert params is not None
        assert (params["density"], params["style"], params["IN00"]) == (0.5, 1.0, 0.25)

    def test_uniform_probes_of_several_steps_have_the_ratio_in_every_step(self) -> None:
        probe = by_name(probes_of(spec_of(3, steps=CHAIN)))["uniform 0.5"]
        first, second = (step.by_place["M00"] for step in probe.recipe.steps)
        assert (first, second) == ((0.5, 0.5), (0.5,))  # the second number of the first step is its density

    def test_bounds_that_hold_the_default_of_a_parameter_out_are_met(self) -> None:
        spec = spec_of(2, "dare_linear", space={"parameters": {"density": [0.7, 0.9]}})
        probes = by_name(probes_of(spec, equal_places=frozenset({"vae"})))
        for name in ("parent A", "uniform 0.5", "profile rising"):
            params = probes[name].params
            assert params is not None
            assert params["density"] == 0.7


class TestInsideTheSpace:
    @settings(max_examples=60, deadline=None)
    @given(
        architecture=st.sampled_from(list(Architecture)),
        granularity=st.sampled_from(["uniform", "sections", "blocks"]),
        parents=st.sampled_from([(2, "weighted_sum"), (3, "weighted_sum"), (3, "add_difference"), (2, "ties")]),
        vae=st.booleans(),
        bounds=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)).filter(lambda row: row[0] < row[1]),
        profiles=st.integers(0, 9),
        seed=st.integers(0, 99),
    )
    def test_every_probe_with_parameters_is_the_recipe_of_its_parameters(
        self,
        architecture: Architecture,
        granularity: str,
        parents: tuple[int, str],
        vae: bool,
        bounds: tuple[float, float],
        profiles: int,
        seed: int,
    ) -> None:
        spec = spec_of(*parents, seed=seed, profiles=profiles)
        space, blueprint = space_of(spec, architecture, granularity=granularity, merge_vae=vae, bounds={"*": bounds})
        probes = make_probes(spec, space, blueprint, NO_EQUAL_PLACES)
        assert len({probe.recipe.digest for probe in probes}) == len(probes)
        for probe in probes:
            if probe.params is None:
                assert probe.origin.kind == "parent"
                continue
            assert probe.params.keys() == {row.name for row in space.parameters}
            assert all(row.low <= probe.params[row.name] <= row.high for row in space.parameters)
            assert blueprint.recipe(space.numbers_by_place(probe.params)) == probe.recipe


class TestProfiles:
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_ratios_follow_the_depth(self, architecture: Architecture) -> None:
        probes = by_name(probes_of(spec_of(profiles=4), architecture))
        order = blocks(architecture)

        def depth(name: str) -> list[float]:
            return [numbers_of(probes[f"profile {name}"])[block][0] for block in order]

        rising, falling, hill = depth("rising"), depth("falling"), depth("hill")
        assert rising == sorted(rising)
        assert falling == sorted(falling, reverse=True)
        assert (rising[0], rising[-1], falling[0], falling[-1]) == (0.1, 0.9, 0.9, 0.1)
        middle = order.index("M00")
        assert max(hill) == hill[middle] == 0.9
        assert hill[0] == hill[-1] == 0.1
        assert depth("valley") == pytest.approx([1 - value for value in hill], abs=2e-6)
        for name in text_encoders(architecture):
            assert numbers_of(probes["profile hill"])[name][0] == pytest.approx(sum(hill) / len(hill), abs=2e-6)

    def test_random_profiles_are_smooth_and_within_bounds(self) -> None:
        probes = probes_of(spec_of(profiles=40, seed=3))
        for probe in probes:
            if str(probe.origin).startswith("profile smooth"):
                values = [numbers_of(probe)[block][0] for block in blocks(Architecture.SD15)]
                assert all(0 <= value <= 1 for value in values)
                assert max(abs(one - two) for one, two in pairwise(values)) < 0.15

    def test_uniform_ratios_beyond_the_bounds_are_tried_at_the_bound(self) -> None:
        probe = by_name(probes_of(spec_of(uniform=[0.75], profiles=0), bounds={"*": (0.0, 0.6)}))[
            "uniform 0.75 within the space"
        ]
        assert probe.params is not None
        assert set(probe.params.values()) == {0.6}


def test_a_uniform_probe_that_bounds_make_uneven_is_not_called_uniform_plainly() -> None:
    probes = by_name(probes_of(spec_of(), granularity="sections", bounds={"OUT": (0, 0.3)}))
    assert "uniform 0.25" in probes
    assert "uniform 0.75 within the space" in probes
    assert "uniform 0.75" not in probes
