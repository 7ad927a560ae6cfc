"""Which study a worker of many turns to next.

Studies of the highest priority come first. Among equals the workers spread: each goes where the fewest are. A worker
stays at its study as long as there is work, for turning to another may mean loading gigabytes; only after a while does
it give way to a study that nobody works on, or that has fewer workers than its own would keep.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optimizer.search.stopping import is_spent
from studies.records.cached_reads import CachedTrials
from studies.records.database import Database
from studies.records.finals import lacks_final
from studies.records.optuna_studies import optuna_study
from studies.records.optuna_tables import running_trials
from studies.records.registry import Task
from studies.records.values import StoredStudy

SLICE_SECONDS = 600.0  # at one study while another of the same priority waits


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStudy:
    """A study that has something to do."""

    study: int  # its id
    priority: int
    others: int  # workers at it beside the one that asks


def choose(candidates: Sequence[WaitingStudy], current: int | None, seconds: float) -> int | None:
    """The study to turn to, or to stay at; None where there is nothing to do.

    Args:
        candidates: in a fixed order, that of their ids.
        current: the study that the worker is at.
        seconds: for how long.
    """
    highest = max((row.priority for row in candidates), default=0)
    equals = [row for row in candidates if row.priority == highest]
    here = next((row for row in equals if row.study == current), None)
    if here is not None:
        waiting = [row for row in equals if row is not here and (row.others == 0 or row.others < here.others)]
        if seconds < SLICE_SECONDS or not waiting:
            return here.study
        equals = waiting
    fewest = min((row.others for row in equals), default=0)
    emptiest = [row.study for row in equals if row.others == fewest]
    later = [study for study in emptiest if current is not None and study > current]  # round and round
    return next(iter(later or emptiest), None)


class PendingWork:
    """Looks at one study again and again; what cannot change any more is read once.

    Raises:
        StudyMissingError: Optuna's part of it was deleted.
    """

    def __init__(self, database: Database, study: StoredStudy) -> None:
        self._database = database
        self._cached = CachedTrials(database, study)
        self._optuna = optuna_study(database, study.name)

    def task(self, study: StoredStudy, others: Collection[str]) -> Task | None:
        """What a worker would find: a trial that is new or was interrupted, or a final that is due.

        Args:
            study: as it is now; its budget may have changed.
            others: workers beside it that are not known to be dead.
        """
        rows = self._cached.trials()
        holders = {row.number: row.worker_id for row in rows}
        running = running_trials(self._database, self._optuna._study_id)  # noqa: SLF001 - the table wants it
        if any(holders.get(number) not in others for number in running):
            return "trials"
        if not is_spent(self._database, study, rows, self._optuna):
            return "trials"
        return "final" if not running and lacks_final(self._database, study, rows) else None
