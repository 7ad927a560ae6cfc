"""The pages of a running dashboard, brought up to date while trials come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final as Constant

from basics.messages import in_one_line
from optimizer.dashboard.study_page import describe_study
from studies.errors import StudyMissingError
from studies.files.artifacts import Artifacts
from studies.records.cached_reads import CachedTrials
from studies.records.database import Database
from studies.records.finals import load_final
from studies.records.stored_studies import list_studies
from studies.records.study_records import StudyRecords

PAUSE_SECONDS: Constant = 10.0  # between two looks: as often as a page asks
REST: Constant = 10.0  # a study whose page took a second is not described again for this many seconds


class PageRefresh(threading.Thread):
    """A thread that describes every study whose trials or final have changed.

    Args:
        complain: is told in a few words what went wrong, and why; nothing of it is fatal.
        pause_seconds: between two looks at the database.
        rest: for how many times the seconds that a page took it is not made again.
    """

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        complain: Callable[[str, str], None],
        *,
        pause_seconds: float = PAUSE_SECONDS,
        rest: float = REST,
    ) -> None:
        super().__init__(name="pages of the dashboard", daemon=True)
        self._database, self._artifacts, self._complain = database, artifacts, complain
        self._pause_seconds, self._rest = pause_seconds, rest
        self._ended = threading.Event()
        self._trials: dict[int, CachedTrials] = {}
        self._described: dict[int, Hashable] = {}  # study -> what its page was made from
        self._due: dict[int, float] = {}  # study -> when it may be described again, by time.monotonic()

    def run(self) -> None:
        """Look at the studies until `end` is called."""
        while not self._ended.wait(self._pause_seconds):
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001 - a database that is away comes back, and the pages are still served
                self._complain("the dashboard's pages are as old as before", in_one_line(error))

    def end(self) -> None:
        """End the thread after the page in progress."""
        self._ended.set()
        self.join()

    def refresh(self) -> None:
        """Describe every study that has changed; whatever is wrong with one, the others are described."""
        for records in list_studies(self._database):
            try:
                self._refresh(records)
            except StudyMissingError:  # its Optuna study was deleted
                pass
            except Exception as error:  # noqa: BLE001 - as above
                self._complain(f"study {records.study.name} gets no figures or no note", in_one_line(error))

    def _refresh(self, records: StudyRecords) -> None:
        study = records.study
        found = self._state(records)
        if self._described.get(study.id) == found or time.monotonic() < self._due.get(study.id, 0.0):
            return
        self._described[study.id] = found  # also where it fails: the reason is printed once
        started = time.monotonic()
        describe_study(records, self._artifacts)
        ended = time.monotonic()
        self._due[study.id] = ended + self._rest * (ended - started)

    def _state(self, records: StudyRecords) -> Hashable:
        """Return what a page depends on and what may change."""
        trials = self._trials.setdefault(records.study.id, CachedTrials(records)).trials()
        final = load_final(records)
        finished = sum(trial.state != "running" for trial in trials)
        with_gains = sum(bool(trial.gains) for trial in trials)
        held = None if final is None else (final.created_at, final.votes)
        return finished, with_gains, held, records.study.spec.budget
