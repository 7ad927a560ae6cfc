"""Workers that died, that left, and that were only taken for dead: what becomes of their trials."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import optuna
import pytest
from demo_study import Recorder, ShortStudy, begin
from optuna.trial import TrialState

from optimizer.errors import CheckpointError
from optimizer.observe.events import Event, TrialStarted
from optimizer.system.retry import Retry
from optimizer.work.heartbeat import RERUNS, registered_worker
from optimizer.work.trial_loop import TrialLoop
from studies.records import stored_renders, stored_trials, tables, values, workers
from studies.records.failures import Failure
from studies.records.origins import Origin


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """With both parents done."""
    short = begin(tmp_path_factory.mktemp("deaths"), {"budget": {"trials": 30}})
    short.run(stop_after=2)
    return short


def taken_by_the_dead(short: ShortStudy, attempt: int, *, signed_off: bool = False) -> int:
    """A trial that is RUNNING in the hands of a worker whose process has ended; its number."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    worker_id = workers.register_worker(short.database)
    with short.database.write() as connection:
        this_worker = tables.workers.c.id == worker_id
        connection.execute(tables.workers.update().where(this_worker).values(pid=process.pid))
    if signed_off:
        workers.remove_worker(short.database, worker_id)
    number = optuna.load_study(study_name="short", storage=short.database.storage).ask().number
    recipe = short.runtime.probes[number].recipe
    origin = short.runtime.probes[number].origin
    stored_trials.start_trial(short.records, number, origin, recipe, worker_id, attempt)
    return number


def row_of(short: ShortStudy, number: int) -> values.StoredTrial:
    row = stored_trials.load_trial(short.records, number)
    assert row is not None
    return row


def told(short: ShortStudy, number: int) -> TrialState:
    return optuna.load_study(study_name="short", storage=short.database.storage).trials[number].state


@pytest.mark.parametrize(
    ("attempt", "signed_off", "expected"), [(1, False, 2), (RERUNS, False, RERUNS + 1), (2, True, 2)]
)
def test_a_trial_is_run_again_and_only_deaths_count(
    begun: ShortStudy, attempt: int, signed_off: bool, expected: int
) -> None:
    number = taken_by_the_dead(begun, attempt, signed_off=signed_off)
    recorder = begun.run(stop_after=1)
    assert [started for started, _ in recorder.started] == [number]
    row = row_of(begun, number)
    assert (row.state, row.attempt) == ("complete", expected)
    assert told(begun, number) == TrialState.COMPLETE


def test_a_trial_over_which_too_many_died_fails_and_the_study_goes_on(begun: ShortStudy) -> None:
    number = taken_by_the_dead(begun, RERUNS + 1)
    recorder = begun.run(stop_after=1)
    assert [started for started, _ in recorder.started] == [number + 1]
    row = row_of(begun, number)
    assert row.state == "failed"
    assert f"{RERUNS + 1} workers died" in (row.reason or "")
    assert told(begun, number) == TrialState.FAIL
    assert [(trial.number, trial.state) for trial in recorder.finished] == [
        (number, "failed"),
        (number + 1, "complete"),
    ]
    assert row.failure == "worker_died"


@pytest.mark.parametrize(
    ("error", "counts"), [(RuntimeError("a bug"), True), (CheckpointError("gone"), False), (KeyboardInterrupt(), False)]
)
def test_who_ends_by_a_bug_has_died_and_who_says_why_has_left(
    begun: ShortStudy, error: BaseException, counts: bool
) -> None:
    """Or a trial that brings every worker down would be run for ever."""
    with pytest.raises(type(error)), registered_worker(begun.database, Retry()) as heartbeat:
        raise error
    assert workers.is_registered(begun.database, heartbeat.worker_id) is counts
    workers.remove_worker(begun.database, heartbeat.worker_id)


def test_a_trial_that_another_program_has_ended_is_left_to_the_doctor(begun: ShortStudy) -> None:
    ended = Ended(short=begun)
    loop = TrialLoop(begun.records, begun.runtime, begun.artifacts, ended, ended.stop)
    loop.run()
    (row,) = ended.finished
    assert (row.state, told(begun, row.number)) == ("complete", TrialState.FAIL)


@dataclass
class Ended(Recorder):
    """While its first trial is evaluated, somebody else tells Optuna that it failed."""

    short: ShortStudy | None = None

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted):
            assert self.short is not None
            study = optuna.load_study(study_name="short", storage=self.short.database.storage)
            study.tell(event.trial, state=TrialState.FAIL)

    def stop(self) -> bool:
        return bool(self.started)


@dataclass
class TakenOver(Recorder):
    """While its first trial is evaluated, another worker takes it."""

    short: ShortStudy | None = None
    number: int | None = field(default=None)

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted) and self.short is not None and self.number is None:
            self.number = event.trial
            recipe, origin = row_of(self.short, event.trial).recipe, Origin.parse(event.origin)
            stored_trials.start_trial(self.short.records, event.trial, origin, recipe, "successor", 2)

    def stop(self) -> bool:
        return self.number is not None


def test_a_worker_that_was_taken_for_dead_stores_nothing_and_its_successor_does(begun: ShortStudy) -> None:
    recorder = TakenOver(short=begun)
    loop = TrialLoop(begun.records, begun.runtime, begun.artifacts, recorder, recorder.stop)
    assert loop.run() == 0
    assert recorder.number is not None
    assert recorder.finished == []
    row = row_of(begun, recorder.number)
    assert (row.state, row.worker_id, row.attempt) == ("running", "successor", 2)
    assert stored_renders.load_renders(begun.records, row) == []
    assert told(begun, recorder.number) == TrialState.RUNNING
    again = begun.run(stop_after=1)
    assert [number for number, _ in again.started] == [recorder.number]
    assert row_of(begun, recorder.number).state == "complete"


def test_a_failure_of_a_worker_that_was_taken_for_dead_is_not_stored(begun: ShortStudy) -> None:
    number = taken_by_the_dead(begun, 1)
    before, failure = row_of(begun, number), Failure(kind="out_of_memory", reason="out of memory")
    assert not stored_trials.fail_trial(begun.records, number, "another", failure)
    assert row_of(begun, number) == before
    assert stored_trials.fail_trial(begun.records, number, before.worker_id, failure)
    assert row_of(begun, number).reason == "out of memory"
