"""Which numbers of the search mattered, and how the objective goes with each of them.

Importance is PED-ANOVA (Watanabe, Bansal and Hutter 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter
Importance in Arbitrary Subspaces", arXiv:2304.10255) as Optuna implements it: how much a parameter's values among
the best tenth of the trials differ from its values among all of them. The shares of all parameters sum to 1.

A main effect is the mean objective of the trials in equal parts of a parameter's bounds. All other parameters vary
along with it, as the sampler chose them: it is what was seen, not what would follow from changing this one alone.
That, as far as it can be known, is what the depth-aware model says: it is fitted to all trials, whichever sampler
proposed them, and its effect of one parameter is averaged over all others.
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

from optimizer.errors import TooFewTrialsError
from optimizer.search.depth.posterior import Effect
from optimizer.search.depth.stored_study import fitted_model, space_of
from optimizer.trial.front import chosen_trial
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials
from scorers.protocol import Direction
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace
from studies.records.optuna_studies import optuna_trials
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial

TOP = 0.1  # share of the trials that count as the best
LEAST = 10  # trials: below, the best tenth is a single one
RELIABLE = 50  # trials: Optuna's documentation asks for 5 among the best tenth
BINS = 5


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
    """What mattered for one objective."""

    objective: str
    direction: Direction
    shares: Mapping[str, float]  # parameter -> importance; they sum to 1
    effects: Mapping[str, tuple[Bin, ...]]  # parameter -> bins that hold trials, from its low bound to its high one
    believed: Mapping[str, Effect] | None  # parameter -> what the model says; None where it cannot be fitted
    best: StoredTrial  # in this objective


@dataclass(frozen=True, kw_only=True)
class Insight:
    """A study, ready for tables and pictures."""

    study: StoredStudy
    space: SearchSpace
    objective: Objective
    rows: tuple[StoredTrial, ...]  # every trial that was begun
    samples: tuple[Sample, ...]
    left_out: int  # complete trials that are no part of the space: whole parents that it cannot express
    findings: tuple[Findings, ...]  # one per objective

    @property
    def estimated(self) -> int:
        """Trials that racing stopped: their objective is an estimate."""
        return sum(row.estimated for row in self.rows)

    @property
    def reliable(self) -> bool:
        return len(self.samples) >= RELIABLE

    def params_of(self, row: StoredTrial) -> Mapping[str, float] | None:
        """A trial's numbers; None for one outside the space."""
        return next((sample.params for sample in self.samples if sample.number == row.number), None)

    @property
    def chosen(self) -> StoredTrial:
        """What "best" means in this study: of several objectives the knee of the front."""
        row = chosen_trial(self.rows, self.objective)
        assert row is not None, "an insight has complete trials"  # noqa: S101
        return row


def insight(records: StudyRecords, objective: Objective) -> Insight:
    """Read a study and work out what mattered in it.

    Raises:
        TooFewTrialsError: fewer than LEAST complete trials of the search space.
    """
    study = records.study
    rows = tuple(load_trials(records))
    samples = load_samples(records, rows)
    if len(samples) < LEAST:
        raise TooFewTrialsError(
            f"study {study.name!r} has {len(samples)} complete trials in its search space, and importance needs "
            f"{LEAST} at least (it is reliable from {RELIABLE}): let it run on"
        )
    space = space_of(study, rows[0])
    findings = tuple(
        Findings(
            objective=name,
            direction=direction,
            shares=shares(samples, space, name, direction),
            effects={row.name: main_effect(samples, row, name) for row in space.parameters},
            believed=believed_effects(records, rows, index),
            best=best_trials(rows, Objective(names=(name,), directions=(direction,), terms=()))[0],
        )
        for index, (name, direction) in enumerate(zip(objective.names, objective.directions, strict=True))
    )
    complete = sum(row.state == "complete" for row in rows)
    return Insight(
        study=study,
        space=space,
        objective=objective,
        rows=rows,
        samples=samples,
        left_out=complete - len(samples),
        findings=findings,
    )


def believed_effects(records: StudyRecords, rows: Sequence[StoredTrial], objective: int) -> dict[str, Effect] | None:
    """What the model says of each parameter; None where it cannot be fitted."""
    fitted = fitted_model(records, rows, objective)
    return None if fitted is None else fitted[0].effects()


def load_samples(records: StudyRecords, rows: Sequence[StoredTrial]) -> tuple[Sample, ...]:
    """Complete trials that have parameters, by number; a parent that the space cannot express has none."""
    params = {trial.number: trial.params for trial in optuna_trials(records) if trial.params}
    return tuple(
        Sample(number=row.number, params=params[row.number], objectives=row.objectives)
        for row in rows
        if row.state == "complete" and row.number in params
    )


def shares(samples: Sequence[Sample], space: SearchSpace, name: str, direction: Direction) -> dict[str, float]:
    """PED-ANOVA's importance of every parameter for one objective; they sum to 1, in the space's order.

    All trials being equal, nothing is more important than anything else, and all shares are.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of a study that is none of the user's
    try:
        study = optuna.create_study(direction=direction)
    finally:
        optuna.logging.set_verbosity(verbosity)
    ranges = {row.name: FloatDistribution(row.low, row.high) for row in space.parameters}
    for sample in samples:
        params = {key: sample.params[key] for key in ranges}
        value = sample.objectives[name]
        study.add_trial(create_trial(state=TrialState.COMPLETE, params=params, distributions=dict(ranges), value=value))
    if len({sample.objectives[name] for sample in samples}) == 1:
        return dict.fromkeys(ranges, 1 / len(ranges))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(ranges))
    return {key: float(found[key]) for key in ranges}


def main_effect(samples: Sequence[Sample], parameter: Parameter, name: str) -> tuple[Bin, ...]:
    """Mean objective in BINS equal parts of a parameter's bounds; parts without a trial are left out."""
    edges = np.linspace(parameter.low, parameter.high, BINS + 1)
    at = np.array([sample.params[parameter.name] for sample in samples])
    values = np.array([sample.objectives[name] for sample in samples])
    part = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, BINS - 1)
    return tuple(
        _bin(float(edges[index]), float(edges[index + 1]), values[part == index])
        for index in range(BINS)
        if (part == index).any()
    )


def _bin(low: float, high: float, values: NDArray[np.float64]) -> Bin:
    error = None if values.size < 2 else float(values.std(ddof=1) / math.sqrt(values.size))
    return Bin(low=low, high=high, trials=values.size, mean=float(values.mean()), error=error)
