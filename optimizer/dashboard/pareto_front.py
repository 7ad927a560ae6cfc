"""The Pareto front for optuna-dashboard, whose own search for it compares every trial with every other in Python.

Its page asks for a study every few seconds, and each time for the front. With three objectives that takes its search
seconds for 1,000 trials, and a hundred times that for 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optuna_dashboard._app as dashboard_app
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


def hasten_pareto_fronts() -> None:
    """Let optuna-dashboard find Pareto fronts by the function below, in this process."""
    dashboard_app.get_pareto_front_trials = pareto_front


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Return the complete trials that no other one dominates, by number; equal ones do not dominate each other.

    A value that is not a number is the worst.
    """
    complete = sorted((trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: trial.number)
    if not complete:
        return []
    signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    values = np.array([trial.values for trial in complete], dtype=np.float64) * signs
    values[np.isnan(values)] = math.inf
    distinct, which = np.unique(values, axis=0, return_inverse=True)  # sorted: a row is dominated by earlier ones only
    best = _undominated(distinct)
    return [trial for trial, row in zip(complete, which.reshape(-1), strict=True) if best[row]]


def _undominated(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows no other row dominates.

    Args:
        losses: [rows, objectives], less is better; distinct rows in lexicographic order.
    """
    found = np.zeros(len(losses), dtype=np.bool_)
    left = np.arange(len(losses))
    while left.size:
        first, others = left[0], left[1:]
        found[first] = True
        left = others[(losses[others] < losses[first]).any(axis=1)]
    return found
