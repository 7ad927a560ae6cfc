"""The best trial for optuna-dashboard, which would call the best observed one so whatever the final says."""

from __future__ import annotations

from collections.abc import Hashable

from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage  # what Optuna itself reads a database through
from optuna.trial import FrozenTrial

from optimizer.trial.best import load_best
from optimizer.trial.objective import Objective
from studies.errors import StudyError
from studies.records.database import Database
from studies.records.finals import load_final
from studies.records.stored_studies import open_study


class DashboardStorage(_CachedStorage):
    """Optuna's cached storage, whose best trial is that of the rest of the program.

    With several objectives the dashboard shows the whole front, and the study's note names the best.
    """

    def __init__(self, database: Database) -> None:
        assert isinstance(database.storage, RDBStorage)  # noqa: S101
        super().__init__(database.storage)
        self._database = database
        self._best: dict[int, tuple[Hashable, int]] = {}  # study -> what it was found from, and its best trial's number

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the final's choice, or the best observed trial; of studies that are not ours, Optuna's."""
        try:
            number = self._number(study_id)
        except StudyError:
            number = None
        if number is None:
            return super().get_best_trial(study_id)
        return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))

    def _number(self, study_id: int) -> int | None:
        """Return the best trial's number; None where the study has none yet.

        Raises:
            StudyError: the study is not ours, or cannot be read.
        """
        records = open_study(self._database, self.get_study_name_from_id(study_id))
        final = load_final(records)
        trials = self.get_all_trials(study_id, deepcopy=False)
        finished = sum(trial.state.is_finished() for trial in trials)
        found: Hashable = finished, None if final is None else final.created_at
        known = self._best.get(study_id)
        if known is None or known[0] != found:
            best = load_best(records, Objective.of_study(records.study))
            if best is None:
                return None
            known = self._best[study_id] = found, best.trial.number
        return known[1]
