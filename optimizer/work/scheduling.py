"""Which study a worker of several studies works on next.

Studies of the highest priority come first. Among equals each worker goes to the study with the fewest workers. It stays
there as long as there is work, because changing to another study may mean loading gigabytes. Only after SLICE_SECONDS
does it move to a study that has no worker, or fewer than its own would still have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optimizer.preference.search import AHEAD, lacks_votes
from optimizer.search.stopping import has_ended
from optimizer.trial.missing_final import misses_final, votes_missing
from studies.records.cached_reads import CachedTrials
from studies.records.database import Database
from studies.records.finals import lacks_final
from studies.records.optuna_studies import optuna_study
from studies.records.optuna_tables import running_trials
from studies.records.study_records import StudyRecords
from studies.records.workers import Task

SLICE_SECONDS = 600.0  # at one study while another of the same priority waits


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStudy:
    """A study that has something to do."""

    study_id: int
    priority: int
    others: int  # workers at it beside the one that asks


def choose(candidates: Sequence[WaitingStudy], current: int | None, seconds: float) -> int | None:
    """Choose the study to work on next; None where there is nothing to do.

    Args:
        candidates: by id.
        current: the study that the worker is at.
        seconds: how long it has been there.
    """
    highest = max((candidate.priority for candidate in candidates), default=0)
    equals = [candidate for candidate in candidates if candidate.priority == highest]
    here = next((candidate for candidate in equals if candidate.study_id == current), None)
    if here is not None:
        waiting = [
            candidate
            for candidate in equals
            if candidate is not here and (candidate.others == 0 or candidate.others < here.others)
        ]
        if seconds < SLICE_SECONDS or not waiting:
            return here.study_id
        equals = waiting
    fewest = min((candidate.others for candidate in equals), default=0)
    emptiest = [candidate.study_id for candidate in equals if candidate.others == fewest]
    later = [study for study in emptiest if current is not None and study > current]  # each in its turn
    return next(iter(later or emptiest), None)


class PendingWork:
    """A repeated check of one study for work. What cannot change any more is read once.

    Raises:
        StudyMissingError: Optuna's part of it was deleted.
    """

    def __init__(self, records: StudyRecords) -> None:
        self._cached_trials = CachedTrials(records)
        self._optuna = optuna_study(records)

    def task(self, records: StudyRecords, others: Collection[str]) -> Task | None:
        """Return what there is to do; None for nothing.

        There are trials to do where one is new or was interrupted, and a final where it is due. Where the search can go
        on with votes only, there is nothing to do until they come.

        Args:
            records: of the study as it is now; its budget may have changed.
            others: ids of the other workers that are not known to be dead.
        """
        trials = self._cached_trials.trials()
        holders = {trial.number: trial.worker_id for trial in trials}
        running = running_trials(records.database, self._optuna._study_id)  # noqa: SLF001 - the table wants it
        if any(holders.get(number) not in others for number in running):
            return "trials"
        if not has_ended(records, trials, self._optuna):
            return None if lacks_votes(records, trials) else "trials"
        return "final" if not running and misses_final(records, trials) else None

    def awaits_votes(self, records: StudyRecords, *, finals: bool) -> int:
        """Return on how many trials people have to vote before the study goes on.

        Args:
            finals: whether that may be with its final; else it is with its search alone.
        """
        trials = self._cached_trials.trials()
        if not has_ended(records, trials, self._optuna):
            return AHEAD if lacks_votes(records, trials) else 0
        return votes_missing(records, trials) if finals and lacks_final(records, trials) else 0

    def is_in_progress(self, database: Database) -> bool:
        """Return whether a trial is in progress, as far as Optuna knows."""
        return bool(running_trials(database, self._optuna._study_id))  # noqa: SLF001 - the table wants it
