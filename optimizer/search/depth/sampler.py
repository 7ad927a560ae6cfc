"""The depth-aware sampler: Bayesian optimisation that knows the order of a U-Net's blocks.

It has no state between trials. Every proposal follows from the seed, the trial's number and the finished and running
trials in the database. BoTorch is imported with the first proposal, so that the command line stays fast.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from optimizer.search.depth.candidates import candidates, distant_profiles, perturbed, profile_draws, profiles
from optimizer.search.depth.features import Geometry
from optimizer.search.depth.observations import Observations
from optimizer.search.depth.ties import Split, Subspace, Ties, split_before
from optimizer.search.proposal import Proposal
from optimizer.search.stopping import Expectation
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from botorch.acquisition.acquisition import AcquisitionFunction
    from botorch.models import SingleTaskGP

Floats = NDArray[np.float64]

STARTUP_TRIALS = 8
CANDIDATES = 800
SAMPLES = 32
EXPLORE_EVERY = 3
"""One trial in this many may explore: it then takes the most promising smooth profile far from the best merges."""
EXPLORE_BELOW = 1.0
"""Such a trial explores if the expected improvement is below this many standard deviations of a trial's noise.

Expected improvement alone stays in the first good region that it finds: with noisy values there is always a little left
to gain there. If values are almost free of noise, as on a fixed suite, and still improve, exploring only costs trials.
"""
SPLIT_CANDIDATES = 160  # candidates of the coarse search from which the decision to split a section starts
CENTERS = 5  # best merges around which candidates are made

_log = logging.getLogger(__name__)


class DepthGPSampler(BaseSampler):
    """A Gaussian process over depth features and ratios, with log expected improvement over the best posterior mean.

    Args:
        seed: of the study; each trial's random numbers follow from it and the trial's number.
        n_startup_trials: complete trials before the model is used; until then, proposals are smooth random profiles.
        candidates: how many merges the acquisition function chooses from.
        mc_samples: samples of the posterior; used for several objectives only.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        n_startup_trials: int = STARTUP_TRIALS,
        candidates: int = CANDIDATES,
        mc_samples: int = SAMPLES,
    ) -> None:
        for name, value, least in (
            ("n_startup_trials", n_startup_trials, 1),
            ("candidates", candidates, 64),
            ("mc_samples", mc_samples, 8),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        self._space, self._seed = space, seed
        self._startup, self._candidates, self._samples = n_startup_trials, candidates, mc_samples

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {
            parameter.name: FloatDistribution(parameter.low, parameter.high) for parameter in self._space.parameters
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a value for every parameter of the space."""
        return dict(self.propose(study, trial).params)

    def propose(self, study: Study, trial: FrozenTrial, *, smoothed: bool = False) -> Proposal:
        """Propose a value for every parameter, with its expected improvement and the sections split by then.

        Args:
            smoothed: whether the study's values are smoothed already, as those of votes are.
        """
        geometry = Geometry.of(self._space)
        ties = Ties.of(self._space, geometry)
        trials = study.get_trials(deepcopy=False)
        observed = Observations.of(geometry, trials, study.directions, except_number=trial.number)
        split = split_before(trials, trial.number) or {}
        if observed.complete < self._startup:
            subspace = ties.subspace(split)
            choice = _Choice(x=subspace.embed(self._startup_profile(subspace.geometry, trial.number)), split=split)
        else:
            choice = self._choose(ties, split, observed, trial.number, smoothed=smoothed)
        return Proposal(
            params=geometry.params(choice.x),
            expectation=choice.expectation,
            split=choice.split if ties.sections else None,
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse a parameter that is not of the space; `sample_relative` has proposed all that are.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected a parameter of this sampler's search space, got {param_name!r}: make a sampler for its space"
        )

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number])

    def _startup_profile(self, geometry: Geometry, number: int) -> Floats:
        """Return the trial's element of a Sobol sequence of smooth profiles [d]."""
        sequence = qmc.Sobol(profile_draws(geometry), rng=np.random.default_rng(self._seed))
        if number:
            sequence.fast_forward(number)
        return np.asarray(profiles(geometry, sequence.random(1))[0])

    def _choose(self, ties: Ties, split: Split, observed: Observations, number: int, *, smoothed: bool) -> _Choice:
        """Choose by the model, or near the best trial if the model cannot be fitted."""
        from optimizer.search.depth.gaussian_process import NUMERICAL_ERRORS

        generator = self._generator(number)
        try:
            return self._choose_by_model(ties, split, observed, number, generator, smoothed=smoothed)
        except NUMERICAL_ERRORS as error:
            _log.warning(
                "trial %d: the model could not be fitted (%s); trying a merge near the best one instead",
                number,
                error,
            )
            subspace = ties.subspace(split)
            best = subspace.project(observed.x[np.lexsort((-observed.values.sum(axis=1), observed.violation))[0]])
            return _Choice(x=subspace.embed(perturbed(best, generator)), split=split)

    def _choose_by_model(
        self,
        ties: Ties,
        split: Split,
        observed: Observations,
        number: int,
        generator: np.random.Generator,
        *,
        smoothed: bool,
    ) -> _Choice:
        """Fit the model, split a section if that pays, and maximise the acquisition function; explore now and then."""
        from optimizer.search.depth.acquisition import ConstraintLimits, WithinLimits, acquisition, maximise
        from optimizer.search.depth.gaussian_process import fit, posterior
        from optimizer.search.depth.refine import SubspaceAcquisition
        from optimizer.search.depth.smoothed import best_mean, interpolated

        geometry = ties.geometry
        model_of = interpolated if smoothed else fit
        models = [model_of(geometry, observed.x, values) for values in observed.values.T]
        means = np.stack([posterior(model, observed.x)[0] for model in models], axis=1)
        slack = [fit(geometry, observed.x, each) for each in observed.slack.T]
        limits = ConstraintLimits(models=slack, values=observed.limits, kept=observed.violation == 0)
        centers = observed.x[_best_first(means, observed.violation)[:CENTERS]]
        seed = int(generator.integers(2**31))
        function = acquisition(models, observed.x, observed.pending, self._samples, seed, limits)
        seeks = isinstance(function, WithinLimits) and function.inner is None  # it looks for a merge within the limits
        subspace, split = self._split_if_worth_it(function, ties, split, centers, number)
        if ties.sections:
            function = SubspaceAcquisition(function, subspace)
        centers = subspace.project(centers)
        if smoothed and len(models) == 1 and not slack:
            points = subspace.embed(candidates(subspace.geometry, centers, self._candidates, generator))
            return _Choice(x=best_mean(models[0], points, observed.pending), split=split)
        tried = subspace.contained(np.concatenate([observed.x, observed.pending]))
        may_explore = number % EXPLORE_EVERY == 0 and bool(geometry.features)
        if not may_explore or len(models) == 1:  # several objectives have no single number to decide by: they explore
            free = maximise(function, candidates(subspace.geometry, centers, self._candidates, generator), tried)
            expectation = None if seeks else _expectation(function, free, models, observed)
            if not may_explore or _promising(expectation):
                return _Choice(x=subspace.embed(free), split=split, expectation=expectation)
        distant = distant_profiles(subspace.geometry, centers, self._candidates, generator)
        return _Choice(x=subspace.embed(maximise(function, distant, tried, polish=False)), split=split)

    def _split_if_worth_it(
        self,
        function: AcquisitionFunction,
        ties: Ties,
        split: Split,
        centers: Floats,
        number: int,
    ) -> tuple[Subspace, Split]:
        """Return the subspace that this trial is searched in, and its split sections: one more if that pays."""
        from optimizer.search.depth.refine import section_to_split

        subspace = ties.subspace(split)
        if len(split) == len(ties.sections):
            return subspace, split
        generator = np.random.default_rng([self._seed, number, 1])
        points = candidates(subspace.geometry, subspace.project(centers), SPLIT_CANDIDATES, generator)
        label = section_to_split(function, ties, list(split), points)
        if label is None:
            return subspace, split
        return ties.subspace([*split, label]), {**split, label: number}


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A proposal in scaled parameters."""

    x: Floats  # [d]
    split: Split  # the sections that are split by then
    expectation: Expectation | None = None


def _expectation(
    function: AcquisitionFunction, free: Floats, models: Sequence[SingleTaskGP], observed: Observations
) -> Expectation | None:
    """Return what is expected of the chosen merge [k]; None for several objectives, which have no common unit.

    Above the incumbent the standardised scale is linear, so multiplying by its spread gives the objective's own unit.
    """
    from optimizer.search.depth.acquisition import evaluate

    if len(models) > 1:
        return None
    noise = float(models[0].likelihood.noise.detach().sqrt())
    improvement = np.exp(evaluate(function, free[None])[0])
    spread = observed.scales[0].spread
    return Expectation(improvement=float(improvement) * spread, noise=noise * spread)


def _promising(expectation: Expectation | None) -> bool:
    """Return whether the expected improvement is worth a trial; False if it is not one number."""
    return expectation is not None and expectation.improvement >= EXPLORE_BELOW * expectation.noise


def _best_first(means: Floats, violation: Floats) -> NDArray[np.intp]:
    """Sort merges by posterior means [n, m], best first; returns indices [n].

    The smaller violation of the constraints [n] comes first. With several objectives, fewer dominating merges come
    first, then the larger sum.
    """
    dominating = np.all(means[None] >= means[:, None], axis=-1).sum(axis=1)
    return np.lexsort((-means.sum(axis=1), dominating, violation))
