"""Which trial comes next: probes in their order, then the sampler's; and first of all what another worker left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from demo_study import Recorder
from optuna.trial import TrialState
from unrendered_study import UnrenderedStudy, begin_unrendered, evaluation

from optimizer.observe.events import TrialTakenOver
from optimizer.work.heartbeat import RERUNS, Heartbeat, deaths
from optimizer.work.trial_queue import ClaimedTrial, NoTrial, TrialQueue
from studies.records import stored_trials, tables, workers
from studies.records.optuna_studies import optuna_trials


class Queue:
    """A queue with a worker that is registered, and a reporter that remembers."""

    def __init__(self, study: UnrenderedStudy) -> None:
        self.reporter = Recorder()
        self.study, self.recorder = study, study.recorder()
        self.queue = TrialQueue(study.records, study.order, study.cached_trials, self.reporter, self.recorder.settle)
        self.heartbeat = Heartbeat(study.records.database, workers.register_worker(study.records.database))

    def claim(self) -> ClaimedTrial:
        claimed = self.queue.claim(self.heartbeat)
        assert isinstance(claimed, ClaimedTrial)
        return claimed

    def taken_over(self) -> list[tuple[int, int]]:
        """Number and attempt of the trials of others that were taken."""
        return [(event.trial, event.attempt) for event in self.reporter.of(TrialTakenOver)]

    def finish(self, claimed: ClaimedTrial) -> None:
        assert self.recorder.store(claimed, evaluation(1.0, 2.0), None, 0.0)
        self.recorder.settle(claimed.trial)


@pytest.fixture
def study(tmp_path: Path) -> UnrenderedStudy:
    return begin_unrendered(tmp_path, budget={"trials": 5})


def die(study: UnrenderedStudy, worker_id: str) -> None:
    """As if the worker's process had ended without signing off: another one has its number now."""
    this_worker = tables.workers.c.id == worker_id
    with study.records.database.write() as connection:
        connection.execute(tables.workers.update().where(this_worker).values(pid=os.getpid(), process="an earlier one"))


def test_probes_come_in_their_order_and_then_what_the_sampler_proposes(study: UnrenderedStudy) -> None:
    queue = Queue(study)
    claimed = []
    for _ in range(5):
        claimed.append(queue.claim())
        queue.finish(claimed[-1])
    assert [str(trial.origin) for trial in claimed] == ["parent A", "parent B", "uniform 0.5", "random", "random"]
    assert [trial.recipe for trial in claimed[:3]] == [probe.recipe for probe in study.order.probes]
    assert not any(trial.interrupted for trial in claimed)
    assert queue.queue.claim(queue.heartbeat) is NoTrial.ENDED, "the budget is spent"


def test_a_claimed_trial_is_stored_with_its_worker_its_recipe_and_its_parameters(study: UnrenderedStudy) -> None:
    queue = Queue(study)
    for _ in range(3):
        queue.finish(queue.claim())
    claimed = queue.claim()
    stored = stored_trials.load_trials(study.records)[claimed.number]
    assert (stored.state, stored.worker_id, stored.attempt) == ("running", queue.heartbeat.worker_id, 1)
    assert stored.recipe == claimed.recipe
    params = optuna_trials(study.records)[claimed.number].params
    assert study.order.blueprint.recipe(study.plan.space.numbers_by_place(params)) == claimed.recipe


def test_workers_together_run_no_further_ahead_of_votes_than_one_and_a_dead_ones_trial_is_still_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.preference.search.AHEAD", 2)
    by_votes = {"scorers": {"preference": None}, "objective": None, "render": {"degenerate_limit": 8, "keep": "all"}}
    study = begin_unrendered(tmp_path, **by_votes, budget={"trials": 9}, probes={"uniform": [], "profiles": 0})
    queues = [Queue(study) for _ in range(5)]
    claimed = [queue.claim() for queue in queues[:4]]
    assert [str(trial.origin) for trial in claimed] == ["parent A", "parent B", "random", "random"]
    assert queues[4].queue.claim(queues[4].heartbeat) is NoTrial.LACKS_VOTES
    die(study, queues[3].heartbeat.worker_id)
    assert queues[4].claim().number == 3
    assert queues[4].taken_over() == [(3, 2)]


def test_a_trial_of_a_living_worker_is_left_alone(study: UnrenderedStudy) -> None:
    first, second = Queue(study), Queue(study)
    mine, yours = first.claim(), second.claim()
    assert (mine.number, yours.number) == (0, 1)
    assert second.taken_over() == []


def test_a_trial_whose_worker_left_is_taken_again_as_the_same_attempt(study: UnrenderedStudy) -> None:
    first, second = Queue(study), Queue(study)
    left = first.claim()
    workers.remove_worker(study.records.database, first.heartbeat.worker_id)
    taken = second.claim()
    assert (taken.number, taken.recipe, taken.interrupted) == (left.number, left.recipe, True)
    assert second.taken_over() == [(left.number, 1)]
    assert not first.recorder.store(left, evaluation(9.0, 9.0), None, 0.0), "it is another worker's now"


def test_a_trial_proposed_by_the_sampler_keeps_its_parameters_when_it_is_taken_again(study: UnrenderedStudy) -> None:
    first, second = Queue(study), Queue(study)
    for _ in range(3):
        first.finish(first.claim())
    left = first.claim()
    before = optuna_trials(study.records)[left.number].params
    workers.remove_worker(study.records.database, first.heartbeat.worker_id)
    assert second.claim().recipe == left.recipe
    assert optuna_trials(study.records)[left.number].params == before


def test_a_trial_over_which_a_worker_died_is_tried_a_few_times_and_then_fails(study: UnrenderedStudy) -> None:
    attempts = []
    for _ in range(RERUNS + 1):
        queue = Queue(study)
        assert queue.claim().number == 0
        attempts += [attempt for _, attempt in queue.taken_over()]
        die(study, queue.heartbeat.worker_id)
    assert attempts == list(range(2, RERUNS + 2))
    last = Queue(study)
    assert last.claim().number == 1, "trial 0 is given up"
    (failed,) = last.reporter.finished
    assert (failed.number, failed.state, failed.reason) == (0, "failed", deaths(RERUNS + 1).reason)
    assert optuna_trials(study.records)[0].state is TrialState.FAIL


def test_a_trial_that_was_recorded_but_not_told_is_only_settled(study: UnrenderedStudy) -> None:
    first, second = Queue(study), Queue(study)
    cut_off = first.claim()
    assert first.recorder.store(cut_off, evaluation(1.0, 2.0), None, 0.0)
    die(study, first.heartbeat.worker_id)
    assert second.claim().number == 1
    told = optuna_trials(study.records)[0]
    assert (told.state, told.values) == (TrialState.COMPLETE, [1.5])
    assert second.taken_over() == []


def test_a_trial_that_optuna_has_and_nobody_began_is_begun(study: UnrenderedStudy) -> None:
    study.records.database.storage.create_new_trial(
        study.records.database.storage.get_study_id_from_name(study.records.study.name)
    )
    queue = Queue(study)
    claimed = queue.claim()
    assert (claimed.number, str(claimed.origin), claimed.interrupted) == (0, "parent A", True)


def test_a_parent_outside_the_space_is_claimed_without_parameters(tmp_path: Path) -> None:
    study = begin_unrendered(tmp_path, space={"granularity": "sections", "bounds": {"*": [0.2, 0.8]}})
    queue = Queue(study)
    assert str(queue.claim().origin) == "parent A"
    assert optuna_trials(study.records)[0].params == {}
    assert not study.order.has_parameters(0)
