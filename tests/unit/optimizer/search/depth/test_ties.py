"""Which parameters are tied while a search is coarse, and how that is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from optimizer.search.depth.candidates import candidates, distant_profiles, profile_draws, profiles
from optimizer.search.depth.features import Geometry
from optimizer.search.depth.ties import SPLIT_KEY, Ties, split_before, split_in_words
from search_spaces.blocks import Architecture, blocks, section_of
from search_spaces.settings import SlotSettings, SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace

B = Slot(name="B", kind="ratio", default=0.5)
C = Slot(name="C", kind="ratio", default=0.5)
STYLE = Slot(name="style", kind="lora", default=1.0, low=0.0, high=1.5)


def space_of(*slots: Slot, architecture: Architecture = Architecture.SD15, **options: object) -> SearchSpace:
    chosen = SpaceSettings.model_validate({"granularity": "auto"} | options)
    return SearchSpace.build(chosen, architecture, slots or (B,))


def ties_of(space: SearchSpace) -> Ties:
    return Ties.of(space, Geometry.of(space))


def tied_names(space: SearchSpace) -> dict[str, list[list[str]]]:
    names = [row.name for row in space.parameters]
    return {
        label: [[names[index] for index in members] for members in rows]
        for label, rows in ties_of(space).sections.items()
    }


SPACES = [
    space_of(),
    space_of(architecture=Architecture.SDXL, merge_vae=True),
    space_of(B, C),
    space_of(B, STYLE, parameters={"style": {"bounds": [0, 1.5], "granularity": "auto"}}),
    space_of(groups={"joined": ["IN0*", "M00", "OUT00"], "ends": ["OUT1*"]}),
    space_of(frozen={"OUT*": 0.0}, bounds={"IN0[0-3]": [0.0, 0.5]}),
]
some_space = st.sampled_from(SPACES)


class TestWhatIsTied:
    def test_it_has_the_parameters_of_blocks(self) -> None:
        fine = SearchSpace.build(SpaceSettings(granularity="blocks"), Architecture.SD15, (B,))
        assert space_of().parameters == fine.parameters

    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_each_section_of_more_than_one_block_is_one_tie(self, architecture: Architecture) -> None:
        order = blocks(architecture)
        wanted = {name: [[block for block in order if section_of(block) == name]] for name in ("IN", "OUT")}
        assert tied_names(space_of(architecture=architecture)) == wanted

    def test_each_slot_is_tied_by_itself(self) -> None:
        found = tied_names(space_of(B, C))
        assert list(found) == ["IN of B", "IN of C", "OUT of B", "OUT of C"]
        assert all(name.endswith(".C") for name in found["IN of C"][0])

    def test_a_group_within_a_section_moves_with_it_and_one_across_stands_alone(self) -> None:
        found = tied_names(space_of(groups={"joined": ["IN0*", "M00", "OUT00"], "ends": ["OUT1*"]}))
        assert found == {"IN": [["IN10", "IN11"]], "OUT": [[*(f"OUT0{at}" for at in range(1, 10)), "ends"]]}

    def test_a_tie_is_one_ratio_so_blocks_of_other_bounds_have_their_own(self) -> None:
        found = tied_names(space_of(bounds={"IN0[0-3]": [0.0, 0.5]}))
        assert found["IN"] == [[f"IN{at:02}" for at in range(4)], [f"IN{at:02}" for at in range(4, 12)]]

    @pytest.mark.parametrize("granularity", ["blocks", "sections", "uniform"])
    def test_nothing_is_tied_unless_the_space_says_auto(self, granularity: str) -> None:
        ties = ties_of(space_of(B, granularity=granularity))
        assert not ties.sections
        assert np.array_equal(ties.subspace(()).embedding, np.eye(len(ties.geometry.names)))

    def test_a_loras_weight_is_tied_where_it_says_auto_itself(self) -> None:
        style = SlotSettings(bounds=(0.0, 1.5), granularity="auto")
        found = tied_names(space_of(B, STYLE, granularity="blocks", parameters={"style": style}))
        assert list(found) == ["IN of style", "OUT of style"]


class TestSubspaces:
    @settings(deadline=None)
    @given(some_space, st.integers(0, 2**32 - 1), st.data())
    def test_free_values_and_parameters_are_each_others_inverse(
        self, space: SearchSpace, seed: int, data: st.DataObject
    ) -> None:
        ties = ties_of(space)
        split = data.draw(st.sets(st.sampled_from(sorted(ties.sections))))
        subspace = ties.subspace(split)
        free = np.random.default_rng(seed).uniform(size=(3, len(subspace.geometry.names)))
        x = subspace.embed(free)
        assert np.allclose(subspace.project(x), free)
        assert np.allclose(subspace.contained(x), free)
        names = [row.name for row in space.parameters]
        for label, rows in ties.sections.items():
            for members in rows:
                values = [ties.geometry.params(x[0])[names[index]] for index in members]
                assert (np.ptp(values) < 1e-12) == (label not in split)

    @settings(deadline=None)
    @given(some_space, st.integers(0, 2**32 - 1))
    def test_going_down_is_the_nearest_point_of_the_subspace(self, space: SearchSpace, seed: int) -> None:
        subspace = ties_of(space).subspace(())
        x = np.random.default_rng(seed).uniform(size=len(space.parameters))
        wanted = np.linalg.lstsq(subspace.embedding, x)[0]
        assert np.allclose(subspace.project(x), wanted)

    def test_what_lies_outside_is_left_out(self) -> None:
        subspace = ties_of(space_of()).subspace(())
        uniform, rising = np.full(26, 0.3), np.linspace(0, 1, 26)
        assert np.allclose(subspace.contained(np.stack([rising, uniform])), subspace.project(uniform)[None])
        assert subspace.contained(rising[None]).shape == (0, 4)

    @settings(deadline=None)
    @given(some_space, st.data())
    def test_features_of_free_values_are_those_of_the_merge(self, space: SearchSpace, data: st.DataObject) -> None:
        ties = ties_of(space)
        subspace = ties.subspace(data.draw(st.sets(st.sampled_from(sorted(ties.sections)))))
        free = np.random.default_rng(0).uniform(size=len(subspace.geometry.names))
        assert np.allclose(subspace.geometry.weights @ free, ties.geometry.weights @ subspace.embed(free))

    @settings(deadline=None)
    @given(some_space, st.integers(0, 2**32 - 1))
    def test_every_free_value_is_moved_by_profiles_and_candidates(self, space: SearchSpace, seed: int) -> None:
        geometry = ties_of(space).subspace(()).geometry
        generator = np.random.default_rng(seed)
        draws = generator.uniform(size=(16, profile_draws(geometry)))
        centers = generator.uniform(size=(2, len(geometry.names)))
        for made in (
            profiles(geometry, draws),
            candidates(geometry, centers, 64, generator),
            distant_profiles(geometry, centers, 64, generator),
        ):
            assert made.shape[1] == len(geometry.names)
            assert made.min() >= 0
            assert made.max() <= 1
        assert np.ptp(profiles(geometry, draws), axis=0).min() > 0

    def test_a_tied_section_has_a_level_and_no_slope_of_its_own(self) -> None:
        ties = ties_of(space_of())
        assert len(ties.geometry.modes) == 1 + 3 + 1 + 3  # text encoder, IN, M00, OUT
        assert len(ties.subspace(()).geometry.modes) == 4
        assert len(ties.subspace({"IN"}).geometry.modes) == 6


def trial(number: int, split: dict[str, int] | None) -> FrozenTrial:
    found = create_trial(state=TrialState.RUNNING)
    found.number = number
    if split is not None:
        found.system_attrs = {SPLIT_KEY: json.dumps(split)}
    return found


class TestWhatIsStored:
    def test_the_last_proposal_counts_its_own_included_and_later_ones_do_not(self) -> None:
        trials = [trial(3, {"IN": 2}), trial(0, None), trial(1, {}), trial(4, None), trial(9, {"IN": 2, "OUT": 9})]
        assert [split_before(trials, number) for number in (0, 2, 3, 8, 9)] == [
            None,
            {},
            {"IN": 2},
            {"IN": 2},
            {"IN": 2, "OUT": 9},
        ]
        assert split_before(trials) == {"IN": 2, "OUT": 9}

    @pytest.mark.parametrize(
        ("split", "words"),
        [
            ({}, "IN and OUT searched as a whole"),
            ({"IN": 34}, "IN split into blocks at trial 34; OUT searched as a whole"),
            ({"OUT": 34, "IN": 50}, "OUT split into blocks at trial 34; IN split into blocks at trial 50"),
            ({"OUT": 12, "IN": 12}, "OUT and IN split into blocks at trial 12"),
        ],
    )
    def test_it_is_told_in_words(self, split: dict[str, int], words: str) -> None:
        assert split_in_words(space_of(), split) == words
