"""The methods that the search benchmarks compare: samplers as functions that maximise a score.

Every method proposes merges of one study's search space, one after the other, and gets the score of each. Samplers of
mergetune go through the same class as in a study. `bayes_opt` is the package `bayesian-optimization` with its defaults,
five random merges and then a Gaussian process, as in the best-known auto-merger of web UIs
(s1dlx/sd-webui-bayesian-merger). It is not a dependency: `pip install bayesian-optimization`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from optimizer.search.probes import Probe
from optimizer.search.sampler import ProbesFirst
from search_spaces.settings import Granularity
from search_spaces.space import SearchSpace
from studies.spec.search import SamplerSettings

Params = Mapping[str, float]
Score = Callable[[Params], float | None]  # larger is better; None: the merge failed


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The search space of a study, and its probes."""

    space: SearchSpace
    probes: tuple[Probe, ...]


class Searcher(Protocol):
    """A search method."""

    def __call__(self, problem: Problem, seed: int, trials: int, score: Score) -> float:
        """Score `trials` merges; returns the seconds that choosing them took."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler of mergetune, with or without the probes that a study begins with."""

    name: str
    probes: bool
    options: Mapping[str, object] | None = None
    granularity: Granularity = "blocks"

    def __call__(self, problem: Problem, seed: int, trials: int, score: Score) -> float:
        space = self._space(problem.space)
        settings = SamplerSettings.model_validate({"name": self.name, "seed": seed, "options": self.options or {}})
        sampler = ProbesFirst(settings, space, problem.probes if self.probes else ())
        study = optuna.create_study(sampler=sampler, directions=[StudyDirection.MAXIMIZE])
        seconds = 0.0
        for _ in range(trials):
            start = time.perf_counter()
            trial = study.ask()
            params = {each.name: trial.suggest_float(each.name, each.low, each.high) for each in space.parameters}
            seconds += time.perf_counter() - start
            value = score(params)
            if value is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, value)
        return seconds

    def _space(self, space: SearchSpace) -> SearchSpace:
        settings = space.settings.model_copy(update={"granularity": self.granularity})
        return SearchSpace.build(settings, space.architecture, space.slots)


def bayes_opt(problem: Problem, seed: int, trials: int, score: Score) -> float:
    """Search by the package with its defaults; a failed merge gets the worst score so far, as it has no failures."""
    from bayes_opt import BayesianOptimization

    scoring_seconds = 0.0
    scores: list[float] = []

    def objective(**params: float) -> float:
        nonlocal scoring_seconds
        start = time.perf_counter()
        value = score(params)
        scores.append(min(scores, default=0.0) if value is None else value)
        scoring_seconds += time.perf_counter() - start
        return scores[-1]

    bounds = {parameter.name: (parameter.low, parameter.high) for parameter in problem.space.parameters}
    random_points = min(5, trials)
    start = time.perf_counter()
    optimizer = BayesianOptimization(f=objective, pbounds=bounds, random_state=seed, verbose=0)
    optimizer.maximize(init_points=random_points, n_iter=trials - random_points)
    return time.perf_counter() - start - scoring_seconds


METHODS: Mapping[str, Searcher] = {
    "depth": Sampler(name="depth", probes=True),
    "depth auto": Sampler(name="depth", probes=True, granularity="auto"),
    "gp": Sampler(name="gp", probes=True),
    "gp cold": Sampler(name="gp", probes=False),
    "cmaes": Sampler(name="cmaes", probes=False),
    "tpe univariate": Sampler(name="tpe", probes=False, options={"multivariate": False}),
    "random": Sampler(name="random", probes=False),
    "bayes_opt": bayes_opt,
}


def method_names(text: str) -> Sequence[str]:
    """Split names of methods at commas.

    Raises:
        SystemExit: a method is unknown.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        raise SystemExit(f"unknown method {', '.join(unknown)}: choose from {', '.join(METHODS)}")
    return names
