"""The trials of a study that is worked on: what cannot change any more is read once."""

from __future__ import annotations

from studies.records import tables
from studies.records.stored_trials import read_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


class CachedTrials:
    """Reads the trials of one study again and again, each time only those that may have changed.

    A trial that failed, or is complete and has its gains, stays as it is. So a worker's cost per trial does not grow
    with the study.
    """

    def __init__(self, records: StudyRecords) -> None:
        self._records = records
        self._settled: dict[int, StoredTrial] = {}  # a row from the first number on without a gap

    def trials(self) -> list[StoredTrial]:
        """Every trial that was begun, by number; as `results.load_trials`."""
        open_rows = read_trials(self._records, tables.trials.c.number >= len(self._settled))
        rows = [*self._settled.values(), *open_rows]
        for row in open_rows:
            if row.number != len(self._settled) or not _is_settled(row):
                break
            self._settled[row.number] = row
        return rows


def _is_settled(row: StoredTrial) -> bool:
    return row.state == "failed" or (row.state == "complete" and bool(row.gains))
