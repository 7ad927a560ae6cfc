"""What there is to do in a study, told from the database alone: nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Collection

import optuna
from optuna.trial import TrialState

from optimizer.budget import expectations, spent
from studies.attendance import Task
from studies.database import Database
from studies.finals import load_final
from studies.ledger import Ledger
from studies.results import StoredStudy


class Prospect:
    """Looks at one study again and again; what cannot change any more is read once."""

    def __init__(self, database: Database, study: StoredStudy) -> None:
        self._database = database
        self._ledger = Ledger(database, study)
        self._optuna = optuna.load_study(study_name=study.name, storage=database.storage)

    def task(self, study: StoredStudy, others: Collection[str]) -> Task | None:
        """What a worker would find: a trial that is new or was interrupted, or a final that is due.

        Args:
            study: as it is now; its budget may have changed.
            others: workers beside it that are not known to be dead.
        """
        rows = self._ledger.trials()
        holders = {row.number: row.worker_id for row in rows}
        trials = self._optuna.get_trials(deepcopy=False)
        running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        if any(holders.get(number) not in others for number in running):
            return "trials"
        promised = () if study.spec.budget.patience is None else expectations(trials)
        if spent(study.spec, rows, len(trials), promised) is None:
            return "trials"
        if running or not study.spec.final.top:
            return None
        known = load_final(self._database, study)
        return "final" if known is None or known.is_outdated(rows) else None
