"""Where trials lie in the search space, for the model of votes."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.preference.model import Floats
from optimizer.search.depth.features import Geometry
from optimizer.search.depth.stored_study import space_of
from studies.records.optuna_studies import optuna_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


def points_of(records: StudyRecords, trials: Sequence[StoredTrial]) -> dict[int, Floats]:
    """Return the ratios of trials, scaled to 0..1 by their bounds [d]; a parent outside the space has none."""
    params = {trial.number: trial.params for trial in optuna_trials(records) if trial.params}
    placed = [trial.number for trial in trials if trial.number in params]
    if not placed:
        return {}
    geometry = Geometry.of(space_of(records.study, trials[0]))
    return {number: geometry.scaled(params[number]) for number in placed}
