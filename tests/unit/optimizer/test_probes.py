"""The trials every study begins with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.search.probes import Probe, make_probes, recipe_for
from search_spaces.blocks import Architecture, blocks, places, text_encoders
from search_spaces.settings import SpaceSettings
from search_spaces.space import SearchSpace
from studies.recipe import METHODS, Parent
from studies.spec import StudySpec

NOTHING_ALIKE: frozenset[str] = frozenset()


def spec_of(parents: int = 2, method: str = "weighted_sum", seed: int = 0, **probes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "study": "s",
            "parents": [f"/{letter}.safetensors" for letter in "abc"[:parents]],
            "method": method,
            "suite": {"prompts": ["cat"]},
            "scorers": {"sharpness": None},
            "sampler": {"seed": seed},
            "probes": probes,
        },
        context={"base_dir": Path("/")},
    )


def space_of(
    spec: StudySpec, architecture: Architecture = Architecture.SD15, **space: Any
) -> tuple[SearchSpace, tuple[Parent, ...]]:
    letters = tuple("ABC"[: len(spec.parents)])
    slots = METHODS[spec.method].slots(letters)
    parents = tuple(Parent(letter=letter, name=letter.lower(), sha256=letter * 64) for letter in letters)
    return SearchSpace.build(SpaceSettings(**space), architecture, slots), parents


def probes_of(
    spec: StudySpec,
    architecture: Architecture = Architecture.SD15,
    alike: frozenset[str] = NOTHING_ALIKE,
    **space: Any,
) -> tuple[Probe, ...]:
    return make_probes(spec, *space_of(spec, architecture, **space), alike)


def by_name(probes: tuple[Probe, ...]) -> Mapping[str, Probe]:
    return {probe.origin: probe for probe in probes}


class TestOrder:
    def test_parents_then_uniform_then_profiles(self) -> None:
        assert [probe.origin for probe in probes_of(spec_of(3))] == [
            *("parent A", "parent B", "parent C"),
            *("uniform 0.25", "uniform 0.5", "uniform 0.75"),
            *("profile rising", "profile falling", "profile hill", "profile valley"),
            *("profile smooth 1", "profile smooth 2"),
        ]

    def test_fewer_profiles_or_none_can_be_asked_for(self) -> None:
        names = [probe.origin for probe in probes_of(spec_of(uniform=[0.1], profiles=2))]
        assert names == ["parent A", "parent B", "uniform 0.1", "profile rising", "profile falling"]
        assert [probe.origin for probe in probes_of(spec_of(uniform=[], profiles=0))] == ["parent A", "parent B"]

    @pytest.mark.parametrize("granularity", ["uniform", "sections", "blocks"])
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_no_merge_is_tried_twice(self, architecture: Architecture, granularity: str) -> None:
        probes = probes_of(spec_of(), architecture, granularity=granularity)
        assert len({probe.recipe.ratios for probe in probes}) == len(probes)
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
        different = [a.origin for a, b in zip(one, other, strict=True) if a != b]
        assert different == ["profile smooth 1", "profile smooth 2"]


class TestParents:
    @pytest.mark.parametrize("architecture", list(Architecture))
    @pytest.mark.parametrize("count", [2, 3])
    def test_a_parents_recipe_is_the_whole_parent(self, architecture: Architecture, count: int) -> None:
        probes = by_name(probes_of(spec_of(count), architecture))
        two = {"A": (0.0,), "B": (1.0,)}
        three = {"A": (0.0, 0.0), "B": (1.0, 0.0), "C": (0.0, 1.0)}
        alone: list[tuple[str, tuple[float, ...]]] = [*(two.items() if count == 2 else three.items())]
        for letter, ratios in alone:
            recipe = probes[f"parent {letter}"].recipe
            assert recipe.method == "weighted_sum"
            assert recipe.by_place == dict.fromkeys(places(architecture), ratios)

    def test_b_is_outside_a_space_that_keeps_the_vae_of_a(self) -> None:
        probes = by_name(probes_of(spec_of()))
        assert probes["parent A"].params is not None
        assert probes["parent B"].params is None

    def test_b_is_inside_a_space_that_merges_the_vae(self) -> None:
        params = by_name(probes_of(spec_of(), merge_vae=True))["parent B"].params
        assert params is not None
        assert set(params.values()) == {1.0}

    def test_b_is_inside_when_both_vaes_are_alike(self) -> None:
        probe = by_name(probes_of(spec_of(), alike=frozenset({"vae"})))["parent B"]
        assert probe.params is not None
        assert set(probe.params.values()) == {1.0}
        assert probe.recipe.by_place["vae"] == (0.0,)
        assert all(ratios == (1.0,) for place, ratios in probe.recipe.ratios if place != "vae")

    def test_an_alike_place_does_not_help_where_another_frozen_one_differs(self) -> None:
        probe = by_name(probes_of(spec_of(), alike=frozenset({"vae"}), frozen={"text_encoder": 0.0}))["parent B"]
        assert probe.params is None
        assert probe.recipe.by_place["text_encoder"] == (1.0,)

    def test_bounds_that_leave_a_parent_out_leave_it_without_parameters(self) -> None:
        probes = by_name(probes_of(spec_of(), merge_vae=True, bounds={"*": (0.2, 0.8)}))
        assert probes["parent A"].params is None
        assert probes["parent B"].params is None
        assert set(probes["parent A"].recipe.by_place.values()) == {(0.0,)}

    def test_what_is_added_and_its_base_are_no_add_difference(self) -> None:
        probes = by_name(probes_of(spec_of(3, "add_difference")))
        assert probes["parent A"].recipe.method == "add_difference"
        assert probes["parent A"].params is not None
        assert set(probes["parent A"].params.values()) == {0.0}
        for letter, ratios in (("B", (1.0, 0.0)), ("C", (0.0, 1.0))):
            probe = probes[f"parent {letter}"]
            assert probe.params is None
            assert probe.recipe.method == "weighted_sum"
            assert set(probe.recipe.by_place.values()) == {ratios}


class TestInsideTheSpace:
    @settings(max_examples=60, deadline=None)
    @given(
        architecture=st.sampled_from(list(Architecture)),
        granularity=st.sampled_from(["uniform", "sections", "blocks"]),
        parents=st.sampled_from([(2, "weighted_sum"), (3, "weighted_sum"), (3, "add_difference")]),
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
        space, letters = space_of(spec, architecture, granularity=granularity, merge_vae=vae, bounds={"*": bounds})
        probes = make_probes(spec, space, letters, NOTHING_ALIKE)
        assert len({probe.recipe.digest for probe in probes}) == len(probes)
        for probe in probes:
            if probe.params is None:
                assert probe.origin.startswith("parent")
                continue
            assert probe.params.keys() == {row.name for row in space.parameters}
            assert all(row.low <= probe.params[row.name] <= row.high for row in space.parameters)
            assert recipe_for(spec, space, letters, probe.params) == probe.recipe


class TestProfiles:
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_ratios_follow_the_depth(self, architecture: Architecture) -> None:
        probes = by_name(probes_of(spec_of(profiles=4), architecture))
        order = blocks(architecture)

        def depth(name: str) -> list[float]:
            return [probes[f"profile {name}"].recipe.by_place[block][0] for block in order]

        rising, falling, hill = depth("rising"), depth("falling"), depth("hill")
        assert rising == sorted(rising)
        assert falling == sorted(falling, reverse=True)
        assert (rising[0], rising[-1], falling[0], falling[-1]) == (0.1, 0.9, 0.9, 0.1)
        middle = order.index("M00")
        assert max(hill) == hill[middle] == 0.9
        assert hill[0] == hill[-1] == 0.1
        assert depth("valley") == pytest.approx([1 - value for value in hill], abs=2e-6)
        for name in text_encoders(architecture):
            assert probes["profile hill"].recipe.by_place[name][0] == pytest.approx(sum(hill) / len(hill), abs=2e-6)

    def test_random_profiles_are_smooth_and_within_bounds(self) -> None:
        probes = probes_of(spec_of(profiles=40, seed=3))
        for probe in probes:
            if probe.origin.startswith("profile smooth"):
                values = [probe.recipe.by_place[block][0] for block in blocks(Architecture.SD15)]
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
