"""The shortlist of a final: complete trials ranked by what the model expects of them.

The best observed trial is the best partly by luck. The posterior mean of the depth-aware model shrinks each observed
value towards those of similar merges, so a lucky trial among mediocre ones falls back.
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
PosteriorMeans = Mapping[int, float]  # trial number -> posterior mean of an objective


def by_value(objective: Objective, means: Mapping[str, PosteriorMeans] | None = None) -> Rank:
    """Rank by the objective; several objectives by the distance beyond the plane through the front's extremes.

    Trials that keep the constraints come before those that do not, which are ranked by their violation first.

    Args:
        means: objective -> posterior means; a trial without one counts with its observed value.
    """

    def rank(trials: Sequence[StoredTrial]) -> list[StoredTrial]:
        if not trials:
            return []
        ordered = sorted(trials, key=lambda trial: trial.number)
        values = signed_values([_expected(trial, means or {}) for trial in ordered], objective)
        order = np.argsort(-values[:, 0], kind="stable") if values.shape[1] == 1 else knee_order(values)
        ranked = [ordered[index] for index in order]
        return sorted(ranked, key=lambda trial: objective.constraints.violation(trial.constrained))

    return rank


def _expected(trial: StoredTrial, means: Mapping[str, PosteriorMeans]) -> dict[str, float]:
    return {name: means.get(name, {}).get(trial.number, value) for name, value in trial.objectives.items()}


def by_posterior(records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial]) -> Rank:
    """Rank by the posterior mean of the depth-aware model, whichever sampler proposed the trials.

    The model is fitted to all trials in the search space. Trials outside it count with their observed values. If the
    model cannot be fitted (fewer than three complete trials, or values that no model fits), all trials do.
    """
    return by_value(objective, posterior_means(records, objective, trials) if trials else None)


def posterior_means(
    records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial]
) -> dict[str, PosteriorMeans]:
    """Map each objective to the posterior means of the complete trials in the space, in the objective's own unit.

    The mapping is empty if the model cannot be fitted.
    """
    means: dict[str, PosteriorMeans] = {}
    for index, name in enumerate(objective.names):
        fitted = fitted_model(records, trials, index)
        if fitted is None:
            return {}
        model, in_space = fitted
        numbers = (trial.number for trial in in_space)
        means[name] = dict(zip(numbers, map(float, model.posterior(in_space)[0]), strict=True))
    return means
