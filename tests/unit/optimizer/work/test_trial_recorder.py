"""What a trial leaves: files, scores, and what Optuna is told; whole, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest
from optuna.trial import TrialState
from unrendered_study import UnrenderedStudy, begin_unrendered, evaluation

from optimizer.observe.events import Reporters
from optimizer.trial.evaluation import Evaluation
from optimizer.work.heartbeat import Heartbeat
from optimizer.work.trial_queue import ClaimedTrial, TrialQueue
from studies.errors import ArtifactError
from studies.files.artifacts import Artifacts
from studies.files.stores import Store, StoredFile
from studies.records import stored_renders, stored_trials, workers
from studies.records.cached_reads import CachedTrials
from studies.records.failures import Failure
from studies.records.optuna_studies import optuna_trials
from studies.records.values import StoredTrial

BLACK = Failure(kind="degenerate", reason="black images")


class Desk:
    """A recorder, and the trials that it is handed."""

    def __init__(self, study: UnrenderedStudy, cache_dir: Path = Path("/")) -> None:
        self.study, self.recorder = study, study.recorder(cache_dir)
        self._queue = TrialQueue(study.records, study.order, study.cached_trials, Reporters(()), self.recorder.settle)
        self._heartbeat = Heartbeat(study.records.database, workers.register_worker(study.records.database))

    def claim(self) -> ClaimedTrial:
        claimed = self._queue.claim(self._heartbeat)
        assert isinstance(claimed, ClaimedTrial)
        return claimed

    def record(self, *sharpness: float) -> StoredTrial:
        """The next trial with these scores, stored and told."""
        return self.record_evaluation(evaluation(*sharpness))

    def record_evaluation(self, evaluated: Evaluation) -> StoredTrial:
        claimed = self.claim()
        assert self.recorder.store(claimed, evaluated, None, 0.0)
        return self.recorder.settle(claimed.trial)

    def with_renders(self) -> set[int]:
        """Trials whose renders are in the artifact store, every image of them."""
        rows = stored_renders.stored_files(self.study.records)
        there = {file.name for file in self.study.artifacts.store.files("")}
        assert all(files <= there for files in rows.values())
        assert {name for name in there if name.endswith(".png")} == {name for files in rows.values() for name in files}
        return set(rows)


@pytest.fixture
def study(tmp_path: Path) -> UnrenderedStudy:
    return begin_unrendered(tmp_path, budget={"trials": 8})


def test_scores_renders_and_seconds_are_stored_and_optuna_is_told(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    stored = desk.record(1.0, 3.0)
    assert (stored.state, stored.objectives, stored.rendered) == ("complete", {"objective": 2.0}, 2)
    assert stored.seconds["merge"] == 0.25
    assert stored.seconds.keys() == {"merge", "denoise", "other"}
    assert stored.machine == {"device": "none"}
    assert stored_renders.load_scores(study.records, stored) == ({"sharpness": (1.0, 3.0)}, {})
    renders = stored_renders.load_renders(study.records, stored)
    assert tuple(render.pixels_sha256 for render in renders) == evaluation(1.0, 3.0).pixels_sha256
    told = optuna_trials(study.records)[0]
    assert (told.state, told.values) == (TrialState.COMPLETE, [2.0])


def test_gains_over_both_parents_follow_once_both_are_in(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    assert desk.record(1.0, 3.0).gains == {}
    desk.record(2.0, 5.0)
    gain = desk.record(4.0, 6.0).gains["objective"]
    assert gain.parent == "B"
    assert gain.value == pytest.approx(1.5)


def test_parents_and_the_best_keep_their_renders_and_no_other_trial(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    for sharpness in (1.0, 2.0):
        desk.record(sharpness, sharpness)
    desk.record(5.0, 5.0)
    assert desk.with_renders() == {0, 1, 2}
    desk.record(4.0, 4.0)
    assert desk.with_renders() == {0, 1, 2}, "a worse trial's renders are not written"
    desk.record(6.0, 6.0)
    assert desk.with_renders() == {0, 1, 4}, "a better trial takes the place of the best"


@pytest.mark.parametrize(("keep", "stored"), [("all", {0, 1, 2, 3}), ("none", set())])
def test_the_spec_may_keep_all_renders_or_none(keep: str, stored: set[int], tmp_path: Path) -> None:
    desk = Desk(begin_unrendered(tmp_path, render={"keep": keep}))
    for sharpness in (1.0, 2.0, 6.0, 4.0):
        desk.record(sharpness, sharpness)
    assert desk.with_renders() == stored


def test_a_failed_trial_has_its_reason_and_its_cost_and_no_score(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    claimed = desk.claim()
    assert desk.recorder.fail(claimed, BLACK, rendered=1, seconds=2.5)
    stored = desk.recorder.settle(claimed.trial)
    assert (stored.state, stored.reason, stored.rendered) == ("failed", "black images", 1)
    assert (stored.seconds, stored.objectives) == ({"other": 2.5}, {})
    assert optuna_trials(study.records)[0].state is TrialState.FAIL


def test_a_parent_outside_the_space_is_told_as_pruned(tmp_path: Path) -> None:
    study = begin_unrendered(tmp_path, space={"granularity": "sections", "bounds": {"*": [0.2, 0.8]}})
    stored = Desk(study).record(1.0, 3.0)
    assert stored.objectives == {"objective": 2.0}
    assert optuna_trials(study.records)[0].state is TrialState.PRUNED


def test_settling_twice_changes_nothing(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    claimed = desk.claim()
    assert desk.recorder.store(claimed, evaluation(1.0, 3.0), None, 0.0)
    first = desk.recorder.settle(claimed.trial)
    assert desk.recorder.settle(claimed.trial) == first
    assert optuna_trials(study.records)[0].values == [2.0]


def test_a_trial_that_another_worker_took_leaves_no_file(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    claimed = desk.claim()
    assert stored_trials.start_trial(study.records, claimed.number, claimed.origin, claimed.recipe, "another")
    assert not desk.recorder.store(claimed, evaluation(1.0, 3.0), None, 0.0)
    assert list(study.artifacts.store.files("")) == []
    assert not desk.recorder.fail(claimed, BLACK, rendered=0, seconds=1.0)
    (stored,) = stored_trials.load_trials(study.records)
    assert (stored.state, stored.worker_id) == ("running", "another")


class FullStore:
    """A store that has room for so many files, and then is full."""

    def __init__(self, store: Store, room: int) -> None:
        self._store, self._room, self._lock = store, room, Lock()

    @property
    def location(self) -> str:
        return self._store.location

    def read(self, name: str) -> bytes:
        return self._store.read(name)

    def write(self, name: str, content: bytes) -> None:
        with self._lock:
            if self._room == 0:
                raise ArtifactError("the store is full")
            self._room -= 1
        self._store.write(name, content)

    def remove(self, name: str) -> None:
        self._store.remove(name)

    def files(self, prefix: str) -> Iterator[StoredFile]:
        return self._store.files(prefix)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_where_the_store_is_full_nothing_is_recorded_and_no_file_is_left(room: int, study: UnrenderedStudy) -> None:
    full = replace(study, artifacts=Artifacts(FullStore(study.artifacts.store, room)))
    desk = Desk(full)
    claimed = desk.claim()
    with pytest.raises(ArtifactError, match="full"):
        desk.recorder.store(claimed, evaluation(1.0, 3.0), None, 0.0)
    assert list(study.artifacts.store.files("")) == []
    (stored,) = stored_trials.load_trials(study.records)
    assert stored.state == "running"


def test_leftovers_of_other_workers_go_once_the_trial_has_ended(study: UnrenderedStudy) -> None:
    desk = Desk(study)
    claimed = desk.claim()
    study.artifacts.of_trial(study.records.study.key, claimed.number, "dead").save_features({})
    desk.recorder.remove_files_of_others(claimed.number)
    assert len(list(study.artifacts.store.files(""))) == 1, "not while the trial runs"
    desk.recorder.store(claimed, evaluation(1.0, 3.0), None, 0.0)
    desk.recorder.remove_files_of_others(claimed.number)
    assert not any("dead" in file.name for file in study.artifacts.store.files(""))


def test_gains_of_an_earlier_version_get_intervals_over_prompts_when_the_study_goes_on(tmp_path: Path) -> None:
    suite = {"prompts": ["a lion", "a cat", "a fox"], "seeds": [1, 2], "sizes": [64], "steps": 1}
    study = begin_unrendered(tmp_path, budget={"trials": 8}, suite=suite)
    desk = Desk(study)
    for number in range(3):
        desk.record(*(float(number * item) for item in range(6)))
    now = stored_trials.load_trials(study.records)
    assert {gain.basis for trial in now for gain in trial.gains.values()} == {"prompts"}
    make_former(study)
    Desk(replace(study, cached_trials=CachedTrials(study.records))).record(*[1.0] * 6)
    assert [trial.gains for trial in stored_trials.load_trials(study.records)[:3]] == [trial.gains for trial in now]


def make_former(study: UnrenderedStudy) -> None:
    """Store gains as an earlier version did: over images, and so narrower."""
    for trial in stored_trials.load_trials(study.records):
        former = {
            name: replace(gain, low=gain.value, high=gain.value, basis=None) for name, gain in trial.gains.items()
        }
        stored_trials.store_gains(study.records, trial, former, trial.errors)
