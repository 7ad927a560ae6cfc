"""The dashboard's plots of pairs of numbers, of an excerpt where the whole study would take gigabytes.

optuna-dashboard asks Optuna for a contour plot of all trials: trials x trials cells for each pair of numbers, 10 GB for
1,000 trials with 26 numbers, and a rank plot draws every trial once for each pair.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Final

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go

TRIALS: Final = 100
NUMBERS: Final = 5
TITLES: Final = {"contour": "Contour", "rank": "Rank"}


class _Excerpt(optuna.Study):
    """A study of which some trials are seen."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage)  # noqa: SLF001 - as optuna-dashboard does
        self._seen = list(trials)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        del deepcopy
        return [trial for trial in self._seen if states is None or trial.state in states]


def excerpt_plot(storage: BaseStorage, study_id: int, kind: str) -> str | None:
    """Draw at most TRIALS trials and the NUMBERS numbers that matter most; return the figure as JSON.

    Args:
        kind: `contour` or `rank`.

    Returns:
        None where the study is small enough to be drawn whole, or is not there.
    """
    try:
        study = optuna.load_study(study_name=storage.get_study_name_from_id(study_id), storage=storage)
    except KeyError:
        return None
    trials = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.params]
    names = sorted({name for trial in trials for name in trial.params})
    if len(trials) <= TRIALS and len(names) <= NUMBERS:
        return None
    chosen, shown = _spread(trials, study.directions[0]), _that_matter(study, names)
    figure = _drawn(_Excerpt(study, chosen), kind, shown)
    figure.update_layout(
        title=f"{TITLES[kind]} of {len(chosen)} of {len(trials)} trials, and of the {len(shown)} of {len(names)} "
        "numbers that matter most"
    )
    return str(figure.to_json())


def _spread(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Return trials at equal distances, the best among them."""
    if len(trials) <= TRIALS:
        return list(trials)
    choose = max if direction is StudyDirection.MAXIMIZE else min
    best = choose(range(len(trials)), key=lambda index: _first_value(trials[index]))
    indices = {index * len(trials) // (TRIALS - 1) for index in range(TRIALS - 1)} | {best}
    return [trials[index] for index in sorted(indices)]


def _that_matter(study: optuna.Study, names: Sequence[str]) -> list[str]:
    if len(names) <= NUMBERS:
        return list(names)
    sign = -1 if study.directions[0] is StudyDirection.MAXIMIZE else 1  # it asks what makes a value small
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "PedAnovaImportanceEvaluator computes the importances of params to achieve low"
        )
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target=lambda trial: sign * _first_value(trial)
        )
    return [*found, *(name for name in names if name not in found)][:NUMBERS]


def _drawn(study: optuna.Study, kind: str, names: list[str]) -> go.Figure:
    from optuna import visualization

    plot = visualization.plot_contour if kind == "contour" else visualization.plot_rank
    if len(study.directions) == 1:
        return plot(study, names)
    return plot(study, names, target=_first_value, target_name="Objective 0")


def _first_value(trial: FrozenTrial) -> float:
    return float(trial.values[0])
