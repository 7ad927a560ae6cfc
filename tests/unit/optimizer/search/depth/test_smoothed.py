"""Proposals from values that are smoothed already, as those of votes are."""

from __future__ import annotations

import json

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from optimizer.preference.model import _correlation, _distances
from optimizer.search.depth.candidates import profile_draws, profiles
from optimizer.search.depth.features import Geometry
from optimizer.search.depth.gaussian_process import posterior, ratio_kernel
from optimizer.search.depth.sampler import DepthGPSampler
from optimizer.search.depth.smoothed import APART, interpolated
from optimizer.search.proposal import Proposal
from search_spaces.blocks import Architecture
from search_spaces.settings import SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace

B = Slot(name="B", kind="ratio", default=0.5)
TRIALS = 14


def space_of(granularity: str) -> SearchSpace:
    return SearchSpace.build(SpaceSettings.model_validate({"granularity": granularity}), Architecture.SD15, (B,))


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    return {row.name: FloatDistribution(row.low, row.high) for row in space.parameters}


def judged(space: SearchSpace) -> Study:
    """A study of smooth profiles that are liked more, the nearer all their ratios are to 0.4."""
    study, geometry = optuna.create_study(direction="maximize"), Geometry.of(space)
    draws = np.random.default_rng(3).uniform(size=(TRIALS, profile_draws(geometry)))
    for x in profiles(geometry, draws):
        params = dict(zip(distributions(space), map(float, x), strict=True))
        value = -float(np.square(x - 0.4).mean())
        study.add_trial(create_trial(params=params, distributions=distributions(space), value=value))
    return study


def proposed(space: SearchSpace, study: Study) -> Proposal:
    trial = create_trial(state=TrialState.RUNNING)
    trial.number = len(study.trials)
    return DepthGPSampler(space).propose(study, trial, smoothed=True)


@pytest.mark.parametrize("granularity", ["uniform", "sections", "blocks"])
def test_votes_are_smoothed_by_the_kernel_that_interpolates_them(granularity: str) -> None:
    geometry = Geometry.of(space_of(granularity))
    x = np.random.default_rng(0).uniform(size=(9, len(geometry.names)))
    alike = _correlation(_distances(range(9), dict(enumerate(x))))
    points = interpolated(geometry, x, np.zeros(9)).train_inputs[0]
    np.testing.assert_allclose(ratio_kernel(geometry, 1.0)(points).to_dense().detach(), alike, atol=1e-5)


def test_the_model_passes_through_its_values() -> None:
    geometry = Geometry.of(space_of("blocks"))
    random = np.random.default_rng(1)
    x, z = random.uniform(size=(12, len(geometry.names))), random.normal(size=12)
    np.testing.assert_allclose(posterior(interpolated(geometry, x, z), x)[0], z, atol=2e-3)


@pytest.mark.parametrize("granularity", ["sections", "blocks"])
def test_what_is_proposed_is_better_than_what_was_judged(granularity: str) -> None:
    """The trial's number is one at which the search by noisy values may explore."""
    space = space_of(granularity)
    study = judged(space)
    while len(study.trials) % 3:
        study.add_trial(create_trial(state=TrialState.FAIL))
    x = np.array(list(proposed(space, study).params.values()))
    assert -np.square(x - 0.4).mean() > study.best_value


def test_merges_that_nobody_has_judged_yet_keep_away_from_each_other() -> None:
    space = space_of("blocks")
    study, ahead = judged(space), []
    for _ in range(4):
        params = proposed(space, study).params
        ahead.append(list(params.values()))
        running = create_trial(state=TrialState.RUNNING, params=dict(params), distributions=distributions(space))
        study.add_trial(running)
    x = np.array(ahead)
    apart = np.sqrt(np.square(x[:, None] - x[None]).mean(axis=-1))[np.triu_indices(len(x), 1)]
    assert apart.min() >= APART


def test_sections_that_are_tied_stay_so() -> None:
    space = space_of("auto")
    proposal = proposed(space, judged(space))
    split = json.loads(proposal.attributes()["mergetune:split"])
    levels = {name: value for name, value in proposal.params.items() if name.startswith("IN")}
    assert "IN" in split or len(set(levels.values())) == 1
