"""The depth-aware sampler: Bayesian optimisation that knows the order of a U-Net's blocks.

It keeps nothing between trials. Every proposal follows from the seed, the trial's number and the finished and running
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
"""Of so many trials one may be a smooth profile far from the best merges, the most promising one."""
EXPLORE_BELOW = 1.0
"""It is, when near the best merges less than so many standard deviations of a trial's noise is to be expected.

Expected improvement alone stays on the first good region it meets: with noisy values there is always a little left to
gain there. Where values are nearly without noise, as on a fixed suite, and still rise, exploring only costs trials.
"""
DECIDING = 160  # candidates of the coarse search from which it is found out whether a section is to be split
CENTERS = 5  # merges around which candidates are made

_log = logging.getLogger(__name__)


class DepthGPSampler(BaseSampler):
    """A Gaussian process over depth features and ratios, with log expected improvement over the best posterior mean.

    Args:
        seed: of the study; each trial's random numbers follow from it and the trial's number.
        n_startup_trials: finished trials before the model is used; smooth random profiles until then.
        candidates: merges among which the acquisition function chooses.
        mc_samples: of the posterior, for several objectives.

    Raises:
        ValueError: an option out of range.
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
        return {row.name: FloatDistribution(row.low, row.high) for row in self._space.parameters}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every parameter of the space."""
        return dict(self.propose(study, trial).params)

    def propose(self, study: Study, trial: FrozenTrial) -> Proposal:
        """A value for every parameter of the space, with what was expected of it and what is split by now."""
        geometry = Geometry.of(self._space)
        ties = Ties.of(self._space, geometry)
        trials = study.get_trials(deepcopy=False)
        seen = Observations.of(geometry, trials, study.directions, except_number=trial.number)
        split = split_before(trials, trial.number) or {}
        if seen.finished < self._startup:
            subspace = ties.subspace(split)
            choice = _Choice(x=subspace.up(self._startup_profile(subspace.geometry, trial.number)), split=split)
        else:
            choice = self._proposal(ties, split, seen, trial.number)
        return Proposal(
            params=geometry.params(choice.x),
            expectation=choice.expectation,
            split=choice.split if ties.sections else None,
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked for a parameter of the space."""
        raise ValueError(f"{param_name!r} is no parameter of the space this sampler was made for")

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number])

    def _startup_profile(self, geometry: Geometry, number: int) -> Floats:
        """The trial's place in a Sobol sequence of profiles."""
        sequence = qmc.Sobol(profile_draws(geometry), rng=np.random.default_rng(self._seed))
        if number:
            sequence.fast_forward(number)
        return np.asarray(profiles(geometry, sequence.random(1))[0])

    def _proposal(self, ties: Ties, split: Split, seen: Observations, number: int) -> _Choice:
        from optimizer.search.depth.gaussian_process import NUMERICAL_ERRORS

        generator = self._generator(number)
        try:
            return self._by_model(ties, split, seen, number, generator)
        except NUMERICAL_ERRORS as error:
            _log.warning(
                "trial %d: the model could not be fitted (%s), so a merge near the best is tried", number, error
            )
            subspace = ties.subspace(split)
            best = subspace.down(seen.x[np.argmax(seen.values.sum(axis=1))])
            return _Choice(x=subspace.up(perturbed(best, generator)), split=split)

    def _by_model(
        self, ties: Ties, split: Split, seen: Observations, number: int, generator: np.random.Generator
    ) -> _Choice:
        from optimizer.search.depth.acquisition import acquisition, maximise
        from optimizer.search.depth.gaussian_process import fit, posterior
        from optimizer.search.depth.refine import Lifted

        geometry = ties.geometry
        models = [fit(geometry, seen.x, values) for values in seen.values.T]
        means = np.stack([posterior(model, seen.x)[0] for model in models], axis=1)
        centers = seen.x[_best_first(means)[:CENTERS]]
        function = acquisition(models, seen.x, seen.pending, self._samples, int(generator.integers(2**31)))
        subspace, split = self._refined(function, ties, split, centers, number)
        if ties.sections:
            function = Lifted(function, subspace)
        centers, known = subspace.down(centers), subspace.inside(np.concatenate([seen.x, seen.pending]))
        exploring = number % EXPLORE_EVERY == 0 and bool(geometry.features)
        if not exploring or len(models) == 1:  # of several objectives it cannot be told whether enough is expected
            free = maximise(function, candidates(subspace.geometry, centers, self._candidates, generator), known)
            expectation = _expectation(function, free, models, seen)
            if not exploring or _promising(expectation):
                return _Choice(x=subspace.up(free), split=split, expectation=expectation)
        distant = distant_profiles(subspace.geometry, centers, self._candidates, generator)
        return _Choice(x=subspace.up(maximise(function, distant, known, polish=False)), split=split)

    def _refined(
        self,
        function: AcquisitionFunction,
        ties: Ties,
        split: Split,
        centers: Floats,
        number: int,
    ) -> tuple[Subspace, Split]:
        """Where this trial is searched: one more section is split where that pays."""
        from optimizer.search.depth.refine import to_split

        subspace = ties.subspace(split)
        if len(split) == len(ties.sections):
            return subspace, split
        generator = np.random.default_rng([self._seed, number, 1])
        points = candidates(subspace.geometry, subspace.down(centers), DECIDING, generator)
        label = to_split(function, ties, list(split), points)
        if label is None:
            return subspace, split
        return ties.subspace([*split, label]), {**split, label: number}


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A proposal in scaled parameters."""

    x: Floats  # [d]
    split: Split
    expectation: Expectation | None = None


def _expectation(
    function: AcquisitionFunction, free: Floats, models: Sequence[SingleTaskGP], seen: Observations
) -> Expectation | None:
    """Of the chosen merge; several objectives have no one unit in which it could be told.

    Above the incumbent the scale of standardised values is linear, so that a spread turns them into the objective's.
    """
    from optimizer.search.depth.acquisition import evaluate

    if len(models) > 1:
        return None
    noise = float(models[0].likelihood.noise.detach().sqrt())
    improvement = np.exp(evaluate(function, free[None])[0])
    spread = seen.scales[0].spread
    return Expectation(improvement=float(improvement) * spread, noise=noise * spread)


def _promising(expectation: Expectation | None) -> bool:
    """Whether enough is expected near the best merges; never where that cannot be told in one number."""
    return expectation is not None and expectation.improvement >= EXPLORE_BELOW * expectation.noise


def _best_first(means: Floats) -> NDArray[np.intp]:
    """By posterior mean; with several objectives by how many others are better in all of them."""
    beaten = np.all(means[None] >= means[:, None], axis=-1).sum(axis=1)
    return np.lexsort((-means.sum(axis=1), beaten))
