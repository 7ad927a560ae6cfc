"""What there is to do in a study, told from the database alone: nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Collection

from optimizer.search.stopping import is_spent
from studies.records.cached_reads import Ledger
from studies.records.database import Database
from studies.records.finals import lacks_final
from studies.records.optuna_studies import optuna_study
from studies.records.optuna_tables import running_trials
from studies.records.registry import Task
from studies.records.values import StoredStudy


class Prospect:
    """Looks at one study again and again; what cannot change any more is read once.

    Raises:
        StudyMissingError: Optuna's part of it was deleted.
    """

    def __init__(self, database: Database, study: StoredStudy) -> None:
        self._database = database
        self._ledger = Ledger(database, study)
        self._optuna = optuna_study(database, study.name)

    def task(self, study: StoredStudy, others: Collection[str]) -> Task | None:
        """What a worker would find: a trial that is new or was interrupted, or a final that is due.

        Args:
            study: as it is now; its budget may have changed.
            others: workers beside it that are not known to be dead.
        """
        rows = self._ledger.trials()
        holders = {row.number: row.worker_id for row in rows}
        running = running_trials(self._database, self._optuna._study_id)  # noqa: SLF001 - the table wants it
        if any(holders.get(number) not in others for number in running):
            return "trials"
        if not is_spent(self._database, study, rows, self._optuna):
            return "trials"
        return "final" if not running and lacks_final(self._database, study, rows) else None
