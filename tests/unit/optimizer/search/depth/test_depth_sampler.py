"""The depth-aware sampler: on real Optuna studies, over spaces of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from slow_cases import first_fast

from optimizer.search.depth.features import Geometry
from optimizer.search.depth.observations import Scale
from optimizer.search.depth.posterior import DepthModel
from optimizer.search.depth.sampler import DepthGPSampler
from search_spaces.blocks import Architecture, blocks
from search_spaces.settings import SlotSettings, SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace

B = Slot(name="B", kind="ratio", default=0.5)
C = Slot(name="C", kind="ratio", default=0.5, high=2.0)
DENSITY = Slot(name="density", kind="parameter", default=0.5, low=0.1, high=0.9)
LORA = Slot(name="style", kind="lora", default=1.0, low=-1.0, high=1.5)
Values = Mapping[str, float]
Function = Callable[[Values], Sequence[float]]


def space_of(
    slots: Sequence[Slot] = (B,), architecture: Architecture = Architecture.SD15, **options: object
) -> SearchSpace:
    return SearchSpace.build(SpaceSettings.model_validate(options), architecture, slots)


BLOCKS = space_of()
SECTIONS = space_of(granularity="sections")


def finished(space: SearchSpace, params: Values, values: Sequence[float], **attributes: object) -> FrozenTrial:
    return create_trial(
        params=dict(params),
        distributions={row.name: FloatDistribution(row.low, row.high) for row in space.parameters},
        values=list(values),
        user_attrs=dict(attributes),
    )


def drawn(space: SearchSpace, seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    return {row.name: float(generator.uniform(row.low, row.high)) for row in space.parameters}


def observed(
    space: SearchSpace,
    function: Function,
    count: int,
    directions: Sequence[Literal["minimize", "maximize"]] = ("maximize",),
) -> Study:
    """A study with `count` finished random trials."""
    study = optuna.create_study(directions=list(directions))
    for seed in range(count):
        params = drawn(space, seed)
        study.add_trial(finished(space, params, function(params)))
    return study


def proposal(
    space: SearchSpace, study: Study, seed: int = 0, number: int | None = None, **options: int
) -> dict[str, float]:
    """What a sampler made for this one trial proposes; the study stays as it is."""
    trial = create_trial(state=TrialState.RUNNING)
    trial.number = len(study.trials) if number is None else number
    return DepthGPSampler(space, seed=seed, **options).sample_relative(study, trial, {})


def run(space: SearchSpace, function: Function, trials: int, seed: int) -> list[tuple[dict[str, float], float]]:
    study = optuna.create_study(direction="maximize", sampler=DepthGPSampler(space, seed=seed))
    for _ in range(trials):
        trial = study.ask()
        params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in space.parameters}
        study.tell(trial, list(function(params)))
    return [(row.params, float(row.values[0])) for row in study.trials]


def hill(params: Values) -> tuple[float]:
    """Best where every other parameter is at a third, the rest at two thirds of the unit range."""
    wanted = [1 / 3 if index % 2 else 2 / 3 for index in range(len(params))]
    return (-math.fsum((value - at) ** 2 for value, at in zip(params.values(), wanted, strict=True)),)


def rising(params: Values) -> tuple[float]:
    """Best where the ratio rises from .2 to .8 over the U-Net's depth."""
    order = blocks(Architecture.SD15)
    wanted = {place: 0.2 + 0.6 * index / (len(order) - 1) for index, place in enumerate(order)}
    return (-math.fsum((params[place] - ratio) ** 2 for place, ratio in wanted.items()) / len(order),)


FREE = {
    "density": SlotSettings(bounds=(0.1, 0.9)),
    "style": SlotSettings(bounds=(-1.0, 1.5), granularity="blocks"),
}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any granularity, architecture and slots; bounds, groups and frozen places on top."""
    slots = draw(st.sampled_from([(B,), (B, C), (B, DENSITY), (B, LORA), (B, C, DENSITY, LORA)]))
    blockwise: list[dict[str, object]] = [
        {"groups": {"joined": ("IN0*", "M00", "OUT00")}},
        {"frozen": {"IN*": 0.0}},
        {"frozen": {"*": 0.25, "text_encoder": 0.0}, "bounds": {}} if len(slots) > 2 else {},
        {"bounds": {"OUT*.B": (0.25, 0.5)}},
    ]
    granularity = draw(st.sampled_from(["uniform", "sections", "blocks"]))
    extra = draw(st.sampled_from([{}, *blockwise])) if granularity == "blocks" else {}
    return space_of(
        slots,
        draw(st.sampled_from(list(Architecture))),
        granularity=granularity,
        merge_vae=draw(st.booleans()) and "frozen" not in extra,
        parameters={slot.name: FREE[slot.name] for slot in slots if slot.kind != "ratio"},
        **extra,
    )


class TestProposals:
    @settings(max_examples=12, deadline=None)
    @given(spaces(), st.integers(0, 2**31 - 1), st.sampled_from([0, 3, 9, 14]))
    def test_they_are_inside_the_bounds_of_any_space(self, space: SearchSpace, seed: int, count: int) -> None:
        found = proposal(space, observed(space, hill, count), seed, candidates=64)
        assert found.keys() == {row.name for row in space.parameters}
        assert all(row.low <= found[row.name] <= row.high for row in space.parameters)
        space.numbers_by_place(found)

    @pytest.mark.parametrize("count", [2, 12])
    def test_they_follow_from_seed_number_and_database(self, count: int) -> None:
        study = observed(BLOCKS, hill, count)
        assert proposal(BLOCKS, study, 5) == proposal(BLOCKS, study, 5)
        assert proposal(BLOCKS, study, 5) != proposal(BLOCKS, study, 6)
        assert proposal(BLOCKS, study, 5) != proposal(BLOCKS, study, 5, number=99)

    def test_they_do_not_depend_on_the_global_random_state(self) -> None:
        import torch

        study = observed(SECTIONS, hill, 10)
        torch.manual_seed(1)
        first = proposal(SECTIONS, study)
        torch.manual_seed(2)
        assert proposal(SECTIONS, study) == first

    def test_a_merge_that_is_being_rendered_is_not_proposed_again(self) -> None:
        study = observed(SECTIONS, hill, 12)
        alone = proposal(SECTIONS, study, number=20)
        distributions: dict[str, BaseDistribution] = {
            row.name: FloatDistribution(row.low, row.high) for row in SECTIONS.parameters
        }
        study.add_trial(create_trial(state=TrialState.RUNNING, params=alone, distributions=distributions))
        beside = proposal(SECTIONS, study, number=20)
        assert max(abs(beside[name] - alone[name]) for name in alone) > 0.02

    def test_a_trial_without_the_parameters_teaches_nothing(self) -> None:
        study = observed(SECTIONS, hill, 10)
        before = proposal(SECTIONS, study, number=30)
        study.add_trial(create_trial(values=[5.0]))
        study.add_trial(create_trial(state=TrialState.PRUNED))
        assert proposal(SECTIONS, study, number=30) == before

    def test_a_copy_of_a_finished_merge_is_never_proposed(self) -> None:
        """On a slope the optimum is a corner; once that is known, asking for it again would tell nothing."""
        study = optuna.create_study(direction="maximize", sampler=DepthGPSampler(SECTIONS))
        for _ in range(16):
            trial = study.ask()
            study.tell(trial, sum(trial.suggest_float(row.name, 0, 1) for row in SECTIONS.parameters))
        points = np.array([list(row.params.values()) for row in study.trials])
        distances = np.abs(points[:, None] - points[None]).max(axis=-1) + np.eye(len(points))
        assert distances.min() > 1e-4

    def test_the_first_ones_are_smooth_profiles_spread_over_the_range(self) -> None:
        study = optuna.create_study()
        found = [proposal(BLOCKS, study, number=number) for number in range(16)]
        profiles = np.array([[params[block] for block in blocks(Architecture.SD15)] for params in found])
        random = np.array([list(drawn(BLOCKS, seed).values()) for seed in range(16)])
        assert np.abs(np.diff(profiles[:, :12])).mean() < 0.35 * np.abs(np.diff(random)).mean()
        assert np.ptp(profiles.mean(axis=1)) > 0.4

    @pytest.mark.parametrize(
        "function",
        [
            pytest.param(lambda _: (1.0,), id="constant"),
            pytest.param(lambda params: (math.inf if params["IN"] > 0.5 else -math.inf,), id="infinite"),
            pytest.param(lambda params: (1e300 * params["IN"],), id="huge"),
            pytest.param(lambda params: (1e-300 * params["IN"],), id="tiny"),
            pytest.param(lambda params: (float(params["IN"] > 0.9),), id="two levels"),
        ],
    )
    def test_odd_values_do_not_stop_it(self, function: Function) -> None:
        found = proposal(SECTIONS, observed(SECTIONS, function, 12))
        assert all(0 <= value <= 1 for value in found.values())

    def test_duplicates_do_not_stop_it(self) -> None:
        study = optuna.create_study(direction="maximize")
        for seed in range(20):
            params = drawn(BLOCKS, seed % 2)
            study.add_trial(finished(BLOCKS, params, [float(seed)]))
        assert all(0 <= value <= 1 for value in proposal(BLOCKS, study).values())

    def test_minimising_is_maximising_the_negative(self) -> None:
        up = observed(SECTIONS, hill, 12)
        down = observed(SECTIONS, lambda params: (-hill(params)[0],), 12, ["minimize"])
        assert proposal(SECTIONS, up) == proposal(SECTIONS, down)

    @pytest.mark.slow
    def test_several_objectives_are_traded_off(self) -> None:
        """Two hills, at .2 and .8 everywhere: the front lies between them."""

        def two(params: Values) -> tuple[float, float]:
            return tuple(math.fsum((value - at) ** 2 for value in params.values()) for at in (0.2, 0.8))  # type: ignore[return-value]

        study = observed(SECTIONS, two, 12, ["minimize", "minimize"])
        for _ in range(6):
            params = proposal(SECTIONS, study)
            study.add_trial(finished(SECTIONS, params, two(params)))
        tried = np.array([list(row.params.values()) for row in study.trials])
        spread = tried.max(axis=1) - tried.min(axis=1)  # 0 on the diagonal, where the front is
        assert np.median(spread[12:]) < 0.5 * np.median(spread[:12])

    def test_it_turns_away_from_where_merges_fail(self) -> None:
        def study_with(state: TrialState) -> Study:
            """The better, the more towards IN = 1; beyond .6 all fail."""
            study = optuna.create_study(direction="maximize")
            for seed in range(30):
                params = drawn(SECTIONS, seed)
                fails = params["IN"] > 0.6
                if fails and state == TrialState.PRUNED:
                    continue
                row = finished(SECTIONS, params, [params["IN"]])
                if fails:
                    row.state, row.values = TrialState.FAIL, None
                study.add_trial(row)
            return study

        heeded = [proposal(SECTIONS, study_with(TrialState.FAIL), seed)["IN"] for seed in range(3)]
        ignored = [proposal(SECTIONS, study_with(TrialState.PRUNED), seed)["IN"] for seed in range(3)]
        assert max(heeded) < min(ignored)


class TestMarginals:
    @pytest.mark.parametrize("objectives", [1, 2])
    def test_they_are_the_models_own_mean_variance_and_gradient_at_each_merge(self, objectives: int) -> None:
        import torch
        from botorch.models import ModelListGP

        from optimizer.search.depth.acquisition import Marginals
        from optimizer.search.depth.gaussian_process import fit

        generator = np.random.default_rng(0)
        x = generator.uniform(size=(12, len(SECTIONS.parameters)))
        models = [fit(Geometry.of(SECTIONS), x, generator.normal(size=12)) for _ in range(objectives)]
        points = torch.from_numpy(generator.uniform(size=(5, 1, x.shape[1]))).requires_grad_()
        ours, theirs = Marginals(models).posterior(points), ModelListGP(*models).posterior(points)
        for one, other in ((ours.mean, theirs.mean), (ours.variance, theirs.variance)):
            assert one.shape == (5, 1, objectives)
            torch.testing.assert_close(one, other)
            slopes = [torch.autograd.grad(moment.sum(), points, retain_graph=True)[0] for moment in (one, other)]
            torch.testing.assert_close(*slopes)


class TestLongStudies:
    def test_every_value_counts_where_only_some_fit_the_parameters(self) -> None:
        from optimizer.search.depth.gaussian_process import MAX_FITTED, fit, posterior

        x = np.random.default_rng(1).uniform(size=(MAX_FITTED + 30, len(SECTIONS.parameters)))
        z = np.sin(4 * x[:, 1]) + x[:, 3]
        found, _ = posterior(fit(Geometry.of(SECTIONS), x, z), x)
        assert np.abs(found - z).max() < 0.05


class TestSearching:
    @pytest.mark.parametrize(("function", "trials", "left"), first_fast(1, [(rising, 18, 0.5), (hill, 21, 0.75)]))
    def test_it_beats_random_by_far(self, function: Function, trials: int, left: float) -> None:
        """What it leaves of the way to the top is a share of what the luckiest of 20 random searches leaves."""
        random = [max(function(drawn(BLOCKS, 1000 * seed + i))[0] for i in range(trials)) for seed in range(20)]
        assert max(value for _, value in run(BLOCKS, function, trials, 1)) > left * max(random)

    @pytest.mark.slow
    def test_few_parameters_are_climbed_to_the_top(self) -> None:
        found = max(value for _, value in run(SECTIONS, hill, 25, 0))
        assert found > -0.004


class TestScale:
    @given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.sampled_from(list(StudyDirection)[1:]))
    def test_it_keeps_the_order_and_can_be_undone(self, values: list[float], direction: StudyDirection) -> None:
        raw = np.array(values)
        scale = Scale.of(raw, direction)
        z = scale.apply(raw)
        order = raw if direction == StudyDirection.MAXIMIZE else -raw
        assert np.all(np.diff(z[np.argsort(order)]) >= -1e-9)
        assert scale.undo(z) == pytest.approx(raw, rel=1e-4, abs=1e-4)


class TestFeatures:
    def test_they_are_level_slope_and_bend_of_a_profile(self) -> None:
        geometry = Geometry.of(BLOCKS)
        t = np.linspace(-1, 1, 12)
        params = dict.fromkeys(geometry.names, 0.5)
        params |= {f"IN{n:02d}": 0.4 + 0.1 * t[n] + 0.2 * (1.5 * t[n] ** 2 - 0.5) for n in range(12)}
        features = dict(
            zip([row.name for row in geometry.features], geometry.weights @ geometry.scaled(params), strict=True)
        )
        assert features["IN level of B"] == pytest.approx(0.4)
        assert features["IN slope of B"] == pytest.approx(0.1)
        assert features["IN bend of B"] == pytest.approx(0.2)
        assert features["OUT level of B"] == pytest.approx(0.5)
        assert features["OUT slope of B"] == pytest.approx(0.0, abs=1e-9)

    @given(spaces())
    def test_none_follows_from_the_others_and_each_is_worth_less_than_all_parameters(self, space: SearchSpace) -> None:
        geometry = Geometry.of(space)
        assert len(geometry.features) < len(space.parameters)
        if geometry.features:
            assert np.linalg.matrix_rank(geometry.weights) == len(geometry.features)

    def test_a_space_without_depth_has_none(self) -> None:
        assert Geometry.of(SECTIONS).features == ()
        assert Geometry.of(SECTIONS).group_names == ("text_encoder", "IN", "MID", "OUT")


class TestInsight:
    def test_the_parameter_that_does_everything_has_all_the_sensitivity(self) -> None:
        study = observed(SECTIONS, lambda params: (math.sin(3 * params["MID"]),), 25)
        found = DepthModel.of(SECTIONS, study.trials, study.directions).effects()
        assert found["MID"].share > 0.9
        assert max(effect.share for name, effect in found.items() if name != "MID") < 0.05

    def test_shares_of_a_sum_are_those_of_its_variances(self) -> None:
        study = observed(SECTIONS, lambda params: (2 * params["IN"] + params["OUT"],), 40, ["minimize"])
        found = DepthModel.of(SECTIONS, study.trials, study.directions).effects()
        assert found["IN"].share == pytest.approx(0.8, abs=0.08)
        assert found["OUT"].share == pytest.approx(0.2, abs=0.08)
        for name, slope in (("IN", 2), ("OUT", 1), ("MID", 0)):
            assert np.polyfit(found[name].at, found[name].mean, 1)[0] == pytest.approx(slope, abs=0.2)

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_the_posterior_is_nearer_to_the_truth_than_the_observations(
        self, direction: Literal["minimize", "maximize"]
    ) -> None:
        generator = np.random.default_rng(3)
        study = observed(SECTIONS, lambda params: (10 + hill(params)[0] + generator.normal(0, 0.2),), 60, [direction])
        mean, deviation = DepthModel.of(SECTIONS, study.trials, study.directions).posterior(study.trials)
        truth = np.array([10 + hill(row.params)[0] for row in study.trials])
        told = np.array([row.value for row in study.trials])
        assert np.abs(mean - truth).mean() < 0.7 * np.abs(told - truth).mean()
        assert np.mean(np.abs(mean - truth) < 3 * deviation) > 0.9


class TestOptions:
    @pytest.mark.parametrize("name", ["n_startup_trials", "candidates", "mc_samples"])
    @pytest.mark.parametrize("value", [0, 1.5, True, "many"])
    def test_a_number_that_makes_no_sense_is_refused(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least"):
            DepthGPSampler(SECTIONS, **{name: value})  # type: ignore[arg-type]
