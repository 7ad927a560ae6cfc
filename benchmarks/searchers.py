"""Samplers as programs that maximise a function: what the search benchmarks compare.

Every method asks for merges of one study's search space, one after the other, and is told what each scored. Those of
mergetune go through the very class that a study asks. `bayes_opt` is the package `bayesian-optimization` with its
defaults, five random merges and then a Gaussian process, as the best-known auto-merger of web UIs calls it
(s1dlx/sd-webui-bayesian-merger); it is no dependency: `pip install bayesian-optimization`.
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
    """What a study searches."""

    space: SearchSpace
    probes: tuple[Probe, ...]


class Searcher(Protocol):
    """Scores `trials` merges, and returns the seconds it took to choose them."""

    def __call__(self, problem: Problem, seed: int, trials: int, score: Score) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler of mergetune, with or without the probes a study begins with."""

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
            params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in space.parameters}
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
    """The package with its defaults; a failed merge is told as the worst score so far, for it knows no failures."""
    from bayes_opt import BayesianOptimization

    scoring = 0.0
    seen: list[float] = []

    def objective(**params: float) -> float:
        nonlocal scoring
        start = time.perf_counter()
        value = score(params)
        seen.append(min(seen, default=0.0) if value is None else value)
        scoring += time.perf_counter() - start
        return seen[-1]

    bounds = {row.name: (row.low, row.high) for row in problem.space.parameters}
    random_points = min(5, trials)
    start = time.perf_counter()
    optimizer = BayesianOptimization(f=objective, pbounds=bounds, random_state=seed, verbose=0)
    optimizer.maximize(init_points=random_points, n_iter=trials - random_points)
    return time.perf_counter() - start - scoring


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


def chosen(names: str) -> Sequence[str]:
    """Methods by names separated by commas.

    Raises:
        SystemExit: a name that is none.
    """
    found = names.split(",")
    if unknown := [name for name in found if name not in METHODS]:
        raise SystemExit(f"no method {', '.join(unknown)}: there are {', '.join(METHODS)}")
    return found
