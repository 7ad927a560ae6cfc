"""A worker of many studies: it works on one after the other while there is something to do, and then waits.

Every step starts from what is stored, so a worker may start, leave or be killed at any time. trial_loop.py has a trial.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from basics.errors import MergetuneError
from basics.messages import in_one_line
from optimizer.errors import DatabaseLostError, FinalError, OptimizerError
from optimizer.observe.events import (
    Reporter,
    StopAsked,
    StudyRefused,
    VotesAwaited,
    WaitingForWork,
    WorkerLeft,
    WorkerStarted,
    reporting_retry,
)
from optimizer.runtime.pool import RuntimePool
from optimizer.runtime.setup import Runtime
from optimizer.system.retry import OUTAGES
from optimizer.work.heartbeat import Heartbeat, registered_worker
from optimizer.work.leftovers import remove_leftovers
from optimizer.work.scheduling import PendingWork, WaitingStudy, choose
from optimizer.work.trial_loop import TrialLoop
from optimizer.work.trial_queue import NoTrial
from studies.errors import (
    ArtifactError,
    DatabaseLockedError,
    DatabaseReplacedError,
    SchemaChangedError,
    WaitEndedError,
)
from studies.files.artifacts import Artifacts
from studies.records import stored_studies, stored_trials
from studies.records.control import StudyControl, status_of, study_controls
from studies.records.database import Database
from studies.records.judgements import load_judgements
from studies.records.study_records import StudyRecords
from studies.records.workers import Task, claim_final, finals_held, give_back, turn_to, workers_at
from studies.system.waiting import USUAL_PATIENCE_SECONDS, ending_when

POLL_SECONDS = 5.0  # between two checks for work while there is none
RETRY_SECONDS = 300.0  # until a study that could not be worked on is tried again

OF_ALL_STUDIES = (
    DatabaseLostError,
    DatabaseLockedError,
    DatabaseReplacedError,
    SchemaChangedError,
    ArtifactError,
    WaitEndedError,
    torch.AcceleratorError,  # the card is in a state that only a new process leaves
    KeyboardInterrupt,
)
"""What keeps a worker from every study. Whatever else one raises, be it SystemExit of a plug-in, is that study's."""

EXPECTED = (MergetuneError, OSError, torch.OutOfMemoryError)
"""What keeps a worker from one study by no fault of its trial, which others may take."""

_log = logging.getLogger(__name__)


class Host(Reporter, Protocol):
    """The surroundings of a worker: it shows progress to people, holds finals, and receives events between studies."""

    def at(self, records: StudyRecords, runtime: Runtime) -> AbstractContextManager[Reporter]:
        """Surround the work on one study, and give the reporter of it."""

    def hold_final(self, records: StudyRecords, runtime: Runtime) -> None:
        """Hold a study's final and store it.

        Raises:
            FinalError: there is nothing to compare.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker does, and for how long."""

    names: frozenset[str] = frozenset()  # of studies; none means all
    until_done: bool = False  # leave when there is nothing left to do
    finals: bool = True
    patience_seconds: float = USUAL_PATIENCE_SECONDS
    poll_seconds: float = POLL_SECONDS
    retry_seconds: float = RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str  # not the error: its traceback would keep the models in memory
    at: float  # time.monotonic


@dataclass(frozen=True, slots=True)
class _FinalState:
    """What decides whether a study's final has something to compare."""

    study_id: int
    trials: int
    judgements: int  # that people gave; 0 where they do not count


@dataclass(frozen=True, slots=True)
class _Turn:
    """What to do next."""

    records: StudyRecords
    task: Task


class Worker:
    """A worker: one registered id, and a trial loop for each study that it turns to, until it is asked to stop.

    Args:
        stop: set when the process is asked to leave: the trial in progress is finished.
    """

    def __init__(
        self,
        database: Database,
        runtimes: RuntimePool,
        artifacts: Artifacts,
        host: Host,
        stop: threading.Event,
        settings: WorkerSettings,
    ) -> None:
        self._database, self._runtimes, self._artifacts = database, runtimes, artifacts
        self._host, self._stop, self._settings = host, stop, settings
        self._retry = reporting_retry(host, settings.patience_seconds)
        self._pending: dict[int, PendingWork] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._without_final: set[_FinalState] = set()  # there was nothing to compare
        self._without_votes: set[int] = set()  # ids of studies that wait for people
        self.doing = "looking for work"  # in words, for people
        self._finished = 0  # trials
        self._current: int | None = None  # the study it is at
        self._since = 0.0  # time.monotonic
        self._looked = 0.0  # time.monotonic, when it last chose among the studies

    def run(self) -> int:
        """Work until there is nothing left or it is stopped; returns how many trials were finished.

        Raises:
            OptimizerError, StudyError, ScorerError, SpaceError: studies were named, and none can be worked on.
            DatabaseLostError: the database went away and stayed away.
            DatabaseLockedError: another process has kept the database's lock.
            DatabaseReplacedError, ArtifactsReplacedError: the database's file or the artifact folder is another one.
            ArtifactError: the artifact store went away, is full, or refuses.
        """
        waits = ending_when(self._stop.is_set, self._settings.patience_seconds)
        with waits, registered_worker(self._database, self._retry) as heartbeat:
            try:
                self._serve(heartbeat)
            except WaitEndedError as error:  # an unfinished trial is run again
                _log.warning("%s", error)
        return self._finished

    def _serve(self, heartbeat: Heartbeat) -> None:
        """Take one turn after the other."""
        idle = False
        while not self._stop.is_set():
            turn = self._retry(lambda: self._next(heartbeat))
            if turn is not None:
                idle = False
                if not self._take(turn, heartbeat):  # another was faster, or it cannot be worked on: no cause to hurry
                    self._stop.wait(min(1.0, self._settings.poll_seconds))
            elif self._settings.until_done and not self._retry(lambda: self._may_have_work(heartbeat)):
                break
            else:
                if not idle:
                    self._host.report(WaitingForWork())
                    self.doing = "waiting for work"
                    idle = True
                self._stop.wait(self._settings.poll_seconds)

    # --------------------------------------------------------------------------------- choosing

    def _next(self, heartbeat: Heartbeat) -> _Turn | None:
        """Choose what to do next; None for nothing."""
        self._looked = time.monotonic()
        alive = heartbeat.alive() - {heartbeat.worker_id}
        others, held = workers_at(self._database, alive), finals_held(self._database, alive)
        turns: dict[int, _Turn] = {}
        candidates = []
        for control in self._wanted():
            turn = self._look(control, alive)
            if turn is not None and not (turn.task == "final" and control.study_id in held):
                turns[control.study_id] = turn
                candidates.append(
                    WaitingStudy(
                        study_id=control.study_id, priority=control.priority, others=others.get(control.study_id, 0)
                    )
                )
        chosen = choose(candidates, self._current, time.monotonic() - self._since)
        if chosen != self._current:
            self._current, self._since = chosen, time.monotonic()
            if chosen is None:
                turn_to(self._database, heartbeat.worker_id, None)
        return None if chosen is None else turns[chosen]

    def _wanted(self) -> list[StudyControl]:
        """List the active studies, without those that were refused in the last `retry_seconds`."""
        names = self._settings.names
        now = time.monotonic()
        wanted = []
        for control in study_controls(self._database):
            refusal = self._refusals.get(control.name)
            late = refusal is not None and now - refusal.at < self._settings.retry_seconds
            if control.status == "active" and (not names or control.name in names) and not late:
                wanted.append(control)
        return wanted

    def _may_have_work(self, heartbeat: Heartbeat) -> bool:
        """Return whether there may be work later.

        There may where a study is paused or waits for votes, and where others are at one of ours: they may die, or hang
        until they count as dead, and then leave a trial or a final.
        """
        names = self._settings.names
        held: frozenset[int] = frozenset()
        if self._settings.finals:
            held = finals_held(self._database, heartbeat.alive() - {heartbeat.worker_id})
        return any(
            control.status == "paused"
            or control.study_id in held
            or control.study_id in self._without_votes
            or self._is_in_progress(control)
            for control in study_controls(self._database)
            if control.status != "stopped" and (not names or control.name in names)
        )

    def _is_in_progress(self, control: StudyControl) -> bool:
        """Return whether others work on trials of a study that this worker can work on."""
        pending = self._pending.get(control.study_id)
        return control.name not in self._refusals and pending is not None and pending.is_in_progress(self._database)

    def _look(self, control: StudyControl, alive: Collection[str]) -> _Turn | None:
        """Check an active study for something to do."""
        try:
            records = stored_studies.open_study(self._database, control.name)
            if control.study_id not in self._pending:
                self._pending[control.study_id] = PendingWork(records)
            pending = self._pending[control.study_id]
            task = pending.task(records, alive)
            lacking = 0 if task is not None else pending.awaits_votes(records, finals=self._settings.finals)
            self._tell_of_votes(records, lacking)
        except (*OF_ALL_STUDIES, *OUTAGES):
            raise
        except BaseException as error:  # noqa: BLE001 - deleted, unreadable, or its plug-in ends the process
            self._refuse(control.name, error)
            return None
        if task == "final" and (not self._settings.finals or self._final_state(records) in self._without_final):
            return None
        return None if task is None else _Turn(records, task)

    def _tell_of_votes(self, records: StudyRecords, trials: int) -> None:
        """Report once that a study waits for votes.

        Args:
            trials: on how many people have to vote.
        """
        if trials and records.study.id not in self._without_votes:
            self._host.report(VotesAwaited(name=records.study.name, trials=trials))
        (self._without_votes.add if trials else self._without_votes.discard)(records.study.id)

    def _final_state(self, records: StudyRecords) -> _FinalState:
        judgements = 0 if records.study.spec.voted is None else len(load_judgements(records))
        return _FinalState(records.study.id, len(stored_trials.load_trials(records)), judgements)

    # ---------------------------------------------------------------------------------- working

    def _take(self, turn: _Turn, heartbeat: Heartbeat) -> int:
        """Work on a study until another comes first; returns how many trials were finished."""
        try:
            self.doing = f"{'the final of' if turn.task == 'final' else 'trials of'} {turn.records.study.name}"
            if turn.task == "final":
                self._hold_final(turn.records, heartbeat)
                return 0
            return self._work(turn.records, heartbeat)
        except OF_ALL_STUDIES:  # another study would fare no better
            raise
        except BaseException as error:  # noqa: BLE001 - a study's plug-ins may raise anything
            expected = isinstance(error, (*EXPECTED, *OUTAGES))
            self._refuse(turn.records.study.name, error)
        # Outside the handler, or the error's traceback would hold what is to be dropped.
        self._runtimes.drop(turn.records.study.id)
        self._retry(lambda: give_back(self._database, heartbeat.worker_id, counts=not expected))
        return 0

    def _work(self, records: StudyRecords, heartbeat: Heartbeat) -> int:
        self._retry(lambda: turn_to(self._database, heartbeat.worker_id, records.study, "trials"))
        runtime = self._runtimes.of(records.study)
        self._refusals.pop(records.study.name, None)
        finished = 0
        with self._host.at(records, runtime) as reporter:
            loop = self._retry(lambda: self._trial_loop(records, runtime, reporter))
            reporter.report(WorkerStarted(worker=heartbeat.worker_id))
            try:
                while not isinstance(done := loop.work_once(heartbeat), NoTrial):
                    finished += done
                    self._finished += done
                    if not self._stays(records, heartbeat):
                        break
                if self._stop.is_set():
                    reporter.report(StopAsked(by="signal"))
            finally:
                reporter.report(WorkerLeft(finished=finished))
        return finished

    def _trial_loop(self, records: StudyRecords, runtime: Runtime, reporter: Reporter) -> TrialLoop:
        patience = self._settings.patience_seconds
        return TrialLoop(records, runtime, self._artifacts, reporter, self._stop.is_set, patience)

    def _stays(self, records: StudyRecords, heartbeat: Heartbeat) -> bool:
        """Return whether to go on with the same study. Every `poll_seconds` it checks for other work."""
        if self._stop.is_set() or self._retry(lambda: status_of(records)) != "active":
            return False
        if time.monotonic() - self._looked < self._settings.poll_seconds:
            return True
        turn = self._retry(lambda: self._next(heartbeat))
        return turn is not None and turn.records == records and turn.task == "trials"

    def _hold_final(self, records: StudyRecords, heartbeat: Heartbeat) -> None:
        if not self._retry(lambda: claim_final(records, heartbeat.worker_id, heartbeat.alive())):
            return  # another worker holds it
        try:
            self._host.hold_final(records, self._runtimes.of(records.study))
        except FinalError as error:
            self._without_final.add(self._retry(lambda: self._final_state(records)))
            _log.info("no final of %s: %s", records.study.name, error)
        finally:
            self._retry(lambda: turn_to(self._database, heartbeat.worker_id, None))
        self._retry(lambda: remove_leftovers(records, self._artifacts, heartbeat.alive))

    def _refuse(self, name: str, error: BaseException) -> None:
        """Leave a study alone for `retry_seconds`. Once every study that was named is refused, raise the error."""
        before = self._refusals.get(name)
        reason = in_one_line(error)
        self._refusals[name] = _Refusal(reason, time.monotonic())
        if self._settings.names and self._settings.names <= self._refusals.keys():
            if isinstance(error, Exception):
                raise error
            raise OptimizerError(f"study {name} ended its worker: {reason}") from error
        if before is None or before.reason != reason:
            self._host.report(StudyRefused(name=name, reason=reason))
