"""Rank the trials that promise most: the candidates of a final.

The best observed trial is best partly by luck. The search's model has seen all trials, and its posterior mean of a
trial is the observed value pulled towards those of its neighbours. So a lucky trial among mediocre ones falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optimizer.search.depth.stored_study import fitted_model
from optimizer.trial.front import knee_order, signed_values
from optimizer.trial.objective import Objective
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

Rank = Callable[[Sequence[StoredTrial]], Sequence[StoredTrial]]  # complete trials -> the same, best first
Belief = Mapping[int, float]  # trial number -> what the model takes its objective for


def by_value(objective: Objective, beliefs: Mapping[str, Belief] | None = None) -> Rank:
    """Rank by the objective; of several by how far a trial lies beyond the plane through the front's extremes.

    Args:
        beliefs: objective -> what is believed of each trial; what was observed is taken where nothing is.
    """

    def rank(trials: Sequence[StoredTrial]) -> list[StoredTrial]:
        if not trials:
            return []
        ordered = sorted(trials, key=lambda trial: trial.number)
        values = signed_values([_believed(trial, beliefs or {}) for trial in ordered], objective)
        order = np.argsort(-values[:, 0], kind="stable") if values.shape[1] == 1 else knee_order(values)
        return [ordered[at] for at in order]

    return rank


def _believed(trial: StoredTrial, beliefs: Mapping[str, Belief]) -> dict[str, float]:
    return {name: beliefs.get(name, {}).get(trial.number, value) for name, value in trial.objectives.items()}


def by_posterior(records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial]) -> Rank:
    """Rank by the posterior mean of the depth-aware model, fitted to all trials of the search space.

    Whichever sampler proposed them. Trials outside the space, and all of them where the model cannot be fitted
    (fewer than three finished trials, values that allow no model), count with what was observed.
    """
    return by_value(objective, beliefs(records, objective, trials) if trials else None)


def beliefs(records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial]) -> dict[str, Belief]:
    """Objective -> posterior mean of each complete trial in the space, in the objective's own unit."""
    found: dict[str, Belief] = {}
    for index, name in enumerate(objective.names):
        fitted = fitted_model(records, trials, index)
        if fitted is None:
            return {}
        model, seen = fitted
        found[name] = dict(zip((trial.number for trial in seen), map(float, model.posterior(seen)[0]), strict=True))
    return found
