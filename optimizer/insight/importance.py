"""Importance: which parameters of a search mattered, and how the objective varies with each of them.

Importance is PED-ANOVA (Watanabe, Bansal and Hutter 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter
Importance in Arbitrary Subspaces", arXiv:2304.10255) as Optuna implements it: how much the distribution of a parameter
among the best tenth of the trials differs from its distribution among all trials. The shares of all parameters sum
to 1.

There are two kinds of main effect. The *observed* one is the mean objective of the trials in equal parts of a
parameter's bounds. All other parameters vary as well, as the sampler chose them, so it does not say what would happen
if this parameter alone were changed. The *model's* effect estimates that. The depth-aware model is fitted to all
trials, whichever sampler proposed them, and its effect of one parameter is averaged over all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from basics.messages import counted
from optimizer.errors import TooFewTrialsError
from optimizer.search.depth.posterior import Effect
from optimizer.search.depth.stored_study import fitted_model, space_of
from optimizer.trial.best import Best, best_of, load_results
from optimizer.trial.objective import Objective
from scorers.protocol import Direction
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace
from studies.records.optuna_studies import optuna_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial

TOP = 0.1  # share of the trials that count as the best
MIN_TRIALS = 10  # with fewer, there is no best tenth
RELIABLE = 50  # trials; Optuna's documentation asks for 5 among the best tenth
BINS = 5  # equal parts of a parameter's bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A complete trial of the search space."""

    number: int
    params: Mapping[str, float]
    objectives: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The trials whose parameter is in [low, high); the last bin includes its end."""

    low: float
    high: float
    trials: int
    mean: float
    error: float | None  # standard error of the mean; None for a single trial


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The importance and effects of all parameters for one objective."""

    objective: str
    direction: Direction
    shares: Mapping[str, float]  # parameter -> importance; they sum to 1
    effects: Mapping[str, tuple[Bin, ...]]  # parameter -> observed effect: the bins that hold trials, ascending
    model_effects: Mapping[str, Effect] | None  # parameter -> the model's effect; None if it cannot be fitted


@dataclass(frozen=True, kw_only=True)
class Insight:
    """A study and what mattered in it, ready for tables and pictures."""

    study: StoredStudy
    space: SearchSpace
    objective: Objective
    trials: tuple[StoredTrial, ...]  # every trial that was started
    best: Best
    samples: tuple[Sample, ...]
    left_out: int  # complete trials outside the space: whole parents that it cannot express
    findings: tuple[Findings, ...]  # one for each objective

    @property
    def estimated(self) -> int:
        """Number of trials that racing stopped, so that their objective is an estimate."""
        return sum(trial.estimated for trial in self.trials)

    @property
    def reliable(self) -> bool:
        """Whether there are enough trials for a reliable importance."""
        return len(self.samples) >= RELIABLE

    def params_of(self, trial: StoredTrial) -> Mapping[str, float] | None:
        """Return a trial's parameters; None for a trial outside the space."""
        return next((sample.params for sample in self.samples if sample.number == trial.number), None)

    @property
    def shown(self) -> StoredTrial:
        """The trial whose ratios are shown: the best merge or, where there is none, the best trial."""
        return self.best.merge or self.best.trial

    @property
    def shown_as(self) -> str:
        """What the trial with the ratios is: `best`, or `best merge` where the best trial is a parent."""
        return "best" if self.shown is self.best.trial else "best merge"


def insight(records: StudyRecords, objective: Objective, *, fits_model: bool = True) -> Insight:
    """Read a study and work out what mattered in it.

    Args:
        fits_model: whether the model is fitted for its effects, which takes longer than all else.

    Raises:
        TooFewTrialsError: fewer than MIN_TRIALS complete trials are in the search space.
    """
    study = records.study
    loaded, final = load_results(records)
    trials, best = tuple(loaded), best_of(loaded, final, objective)
    samples = load_samples(records, trials)
    if len(samples) < MIN_TRIALS:
        raise TooFewTrialsError(
            f"study {study.name!r} has {counted(len(samples), 'complete trial')} in its search space, but importance "
            f"needs at least {MIN_TRIALS} and is reliable from {RELIABLE} on: let the study run on"
        )
    space = space_of(study, trials[0])
    findings = tuple(
        Findings(
            objective=name,
            direction=direction,
            shares=shares(samples, space, name, direction),
            effects={parameter.name: main_effect(samples, parameter, name) for parameter in space.parameters},
            model_effects=model_effects(records, trials, index) if fits_model else None,
        )
        for index, (name, direction) in enumerate(zip(objective.names, objective.directions, strict=True))
    )
    assert best is not None, "where there are samples, at least one trial has all items"  # noqa: S101
    complete = sum(trial.state == "complete" for trial in trials)
    return Insight(
        study=study,
        space=space,
        objective=objective,
        trials=trials,
        best=best,
        samples=samples,
        left_out=complete - len(samples),
        findings=findings,
    )


def model_effects(records: StudyRecords, trials: Sequence[StoredTrial], objective: int) -> dict[str, Effect] | None:
    """Map each parameter to its effect by the depth-aware model; None if the model cannot be fitted."""
    fitted = fitted_model(records, trials, objective)
    return None if fitted is None else fitted[0].effects()


def load_samples(records: StudyRecords, trials: Sequence[StoredTrial]) -> tuple[Sample, ...]:
    """Load the complete trials that have parameters, by number; a parent that the space cannot express has none."""
    params = {trial.number: trial.params for trial in optuna_trials(records) if trial.params}
    return tuple(
        Sample(number=trial.number, params=params[trial.number], objectives=trial.objectives)
        for trial in trials
        if trial.state == "complete" and trial.number in params
    )


def shares(samples: Sequence[Sample], space: SearchSpace, name: str, direction: Direction) -> dict[str, float]:
    """Compute the importance of every parameter for one objective by PED-ANOVA: shares that sum to 1.

    If all trials have the same value, all shares are equal.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna would announce a study that is not the user's
    try:
        study = optuna.create_study(direction=direction)
    finally:
        optuna.logging.set_verbosity(verbosity)
    ranges = {parameter.name: FloatDistribution(parameter.low, parameter.high) for parameter in space.parameters}
    for sample in samples:
        params = {key: sample.params[key] for key in ranges}
        value = sample.objectives[name]
        study.add_trial(create_trial(state=TrialState.COMPLETE, params=params, distributions=dict(ranges), value=value))
    if len({sample.objectives[name] for sample in samples}) == 1:
        return dict.fromkeys(ranges, 1 / len(ranges))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP)
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(ranges))
    return {key: float(importances[key]) for key in ranges}


def main_effect(samples: Sequence[Sample], parameter: Parameter, name: str) -> tuple[Bin, ...]:
    """Average the objective in BINS equal parts of a parameter's bounds; parts without a trial are left out."""
    edges = np.linspace(parameter.low, parameter.high, BINS + 1)
    positions = np.array([sample.params[parameter.name] for sample in samples])
    values = np.array([sample.objectives[name] for sample in samples])
    bins = np.clip(np.searchsorted(edges, positions, side="right") - 1, 0, BINS - 1)
    return tuple(
        _bin(float(edges[index]), float(edges[index + 1]), values[bins == index])
        for index in range(BINS)
        if (bins == index).any()
    )


def _bin(low: float, high: float, values: NDArray[np.float64]) -> Bin:
    error = None if values.size < 2 else float(values.std(ddof=1) / math.sqrt(values.size))
    return Bin(low=low, high=high, trials=values.size, mean=float(values.mean()), error=error)
