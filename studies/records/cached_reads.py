"""The trials of a study that is worked on: what cannot change any more is read once."""

from __future__ import annotations

from studies.records import tables
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


class CachedTrials:
    """The trials of one study, of which every look reads only those that may have changed.

    A trial that failed, or is complete and has its gains, stays as it is, unless people vote on it. So a worker's cost
    per trial does not grow with the study.
    """

    def __init__(self, records: StudyRecords) -> None:
        self._records = records
        self._unchanging: dict[int, StoredTrial] = {}  # by number, from the first on without a gap

    def trials(self) -> list[StoredTrial]:
        """Return what `load_trials` would: every trial that was started, by number."""
        others = load_trials(self._records, tables.trials.c.number >= len(self._unchanging))
        trials = [*self._unchanging.values(), *others]
        for trial in others:
            if trial.number != len(self._unchanging) or not self._cannot_change(trial):
                break
            self._unchanging[trial.number] = trial
        return trials

    def _cannot_change(self, trial: StoredTrial) -> bool:
        if trial.state == "failed":
            return True
        return trial.state == "complete" and trial.has_gains and self._records.study.spec.voted is None
