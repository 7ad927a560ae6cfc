"""The depth-aware sampler, and Optuna's that look at constraints, within constraints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import optuna
import pytest
import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement
from botorch.models import ModelListGP
from optuna.distributions import FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from optimizer.search.depth.acquisition import ConstraintLimits, acquisition, evaluate
from optimizer.search.depth.features import Geometry
from optimizer.search.depth.gaussian_process import fit, library_warnings_ignored, posterior
from optimizer.search.depth.observations import Observations
from optimizer.search.depth.sampler import DepthGPSampler
from optimizer.search.sampler import make_sampler
from optimizer.search.stopping import EXPECTED_KEY
from search_spaces.blocks import Architecture
from search_spaces.settings import SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace
from studies.spec.search import SamplerName, SamplerSettings

SPACE = SearchSpace.build(
    SpaceSettings(granularity="sections"), Architecture.SD15, (Slot(name="B", kind="ratio", default=0.5),)
)
DEPTH = SamplerSettings(name="depth")
Values = Mapping[str, float]


def height(params: Values) -> float:
    """Best where all ratios are 1."""
    return -math.fsum((1 - value) ** 2 for value in params.values())


def distance(params: Values) -> float:
    """How far the merge is from parent A."""
    return math.fsum(params.values()) / len(params)


def drawn(seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    return {row.name: float(generator.uniform(row.low, row.high)) for row in SPACE.parameters}


def observed(count: int, most: float, *others: Callable[[Values], float]) -> Study:
    """A study with finished random trials, which are to stay within a distance of parent A."""
    study = optuna.create_study(directions=["maximize"] * (1 + len(others)))
    for seed in range(count):
        params = drawn(seed)
        study.add_trial(
            create_trial(
                params=params,
                distributions={row.name: FloatDistribution(row.low, row.high) for row in SPACE.parameters},
                values=[height(params), *(other(params) for other in others)],
                constraints={"distance max": distance(params) - most},
            )
        )
    return study


def proposals(
    study: Study, count: int, sampler: SamplerSettings = DEPTH, *, told: bool = True
) -> list[dict[str, float]]:
    """What follows when every proposal is evaluated, and its constraint is told."""
    for _ in range(count):
        study.sampler = make_sampler(sampler, SPACE, len(study.trials), len(study.directions))
        trial = study.ask()
        params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in SPACE.parameters}
        if told:
            trial.set_constraint("distance max", distance(params) - 0.5)
        values = [height(params)] if len(study.directions) == 1 else [height(params), params["OUT"]]
        study.tell(trial, values)
    return [trial.params for trial in study.trials[-count:]]


class TestTheDepthAwareSampler:
    def test_searches_up_to_the_bound_and_hardly_beyond(self) -> None:
        study = observed(12, 0.5)
        before = max(height(trial.params) for trial in study.trials if distance(trial.params) <= 0.5)
        found = proposals(study, 10)
        inside = [params for params in found if distance(params) <= 0.5]
        assert max(map(height, inside)) > before
        assert max(map(height, inside)) > -1.25  # the best at the bound has height -1
        assert np.median([distance(params) for params in found]) < 0.56  # without the constraint it goes to 1

    def test_with_several_objectives_stays_within_it_as_well(self) -> None:
        study = observed(12, 0.5, lambda params: params["OUT"])
        assert np.median([distance(params) for params in proposals(study, 4)]) < 0.6

    def test_looks_for_a_merge_that_keeps_it_while_none_does_and_expects_no_gain_of_it(self) -> None:
        study = observed(12, 0.05)
        nearest = min(distance(trial.params) for trial in study.trials)
        trial = create_trial(state=TrialState.RUNNING)
        trial.number = 13  # not one that explores
        proposal = DepthGPSampler(SPACE, seed=0).propose(study, trial)
        assert distance(proposal.params) < nearest
        assert EXPECTED_KEY not in proposal.attributes()

    def test_without_constraints_proposes_what_it_always_did(self) -> None:
        bounded, free = observed(12, 9.0), optuna.create_study(direction="maximize")
        for trial in bounded.trials:
            free.add_trial(create_trial(params=trial.params, distributions=trial.distributions, values=trial.values))
        geometry = Geometry.of(SPACE)
        found = [Observations.of(geometry, each.trials, each.directions) for each in (bounded, free)]
        assert found[0].slack.shape == (12, 1)
        assert found[1].slack.shape == (12, 0)
        assert not found[1].violation.any()


class TestAcquisition:
    def test_is_the_constrained_expected_improvement_of_botorch(self) -> None:
        geometry = Geometry.of(SPACE)
        study = observed(14, 0.5)
        seen = Observations.of(geometry, study.trials, [StudyDirection.MAXIMIZE])
        model, slack = fit(geometry, seen.x, seen.values[:, 0]), fit(geometry, seen.x, seen.slack[:, 0])
        kept = seen.violation == 0
        limits = ConstraintLimits(models=[slack], values=seen.limits, kept=kept)
        ours = acquisition([model], seen.x, seen.pending, 32, 0, limits)
        best = float(posterior(model, seen.x)[0][kept].max())
        with library_warnings_ignored():
            theirs = LogConstrainedExpectedImprovement(
                ModelListGP(model, slack), best, objective_index=0, constraints={1: (float(seen.limits[0]), None)}
            )
            points = np.random.default_rng(3).uniform(size=(40, seen.x.shape[1]))
            expected = theirs(torch.from_numpy(points)[:, None]).detach().numpy()
        assert evaluate(ours, points) == pytest.approx(expected, rel=1e-4, abs=1e-6)

    def test_a_bound_lies_where_the_excess_is_zero_whatever_the_scale(self) -> None:
        geometry = Geometry.of(SPACE)
        for most in (0.3, 0.5, 5.0):
            seen = Observations.of(geometry, observed(14, most).trials, [StudyDirection.MAXIMIZE])
            kept = [distance(drawn(seed)) <= most for seed in range(14)]
            assert (seen.slack[:, 0] >= seen.limits[0]).tolist() == kept


@pytest.mark.parametrize("name", ["gp", "tpe", "nsgaii"])
def test_optunas_samplers_take_what_is_told_of_constraints(name: SamplerName) -> None:
    study = observed(30, 0.5)
    free = optuna.create_study(direction="maximize")
    for trial in study.trials:
        free.add_trial(create_trial(params=trial.params, distributions=trial.distributions, values=trial.values))
    count = {"gp": 3, "tpe": 12, "nsgaii": 40}[name]
    options = {"population_size": 8} if name == "nsgaii" else {}
    settings = SamplerSettings(name=name, options=options)
    bounded = np.mean([distance(params) for params in proposals(study, count, settings)[-count // 2 :]])
    unbounded = np.mean([distance(params) for params in proposals(free, count, settings, told=False)[-count // 2 :]])
    assert bounded < unbounded
