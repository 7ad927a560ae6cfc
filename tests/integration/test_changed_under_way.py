"""What changes under a running study: its parents' files, the clock, the tables' version, and a scorer's mood."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from demo_study import DEMO, Recorder, ShortStudy, begin, reopen, short_spec
from real_databases import new_postgresql_url
from slow_cases import first_fast

from optimizer.errors import CheckpointError
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.observe.events import Event, TrialStarted
from optimizer.rendering.models import live_dtypes
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import build_runtime
from optimizer.trial.evaluation import Evaluator
from optimizer.work.heartbeat import HEARTBEAT_SECONDS, Heartbeat
from optimizer.work.trial_loop import TrialLoop
from scorers.protocol import SuiteImages
from studies.errors import DatabaseError, StudyChangedError
from studies.records import optuna_studies, stored_renders, stored_trials, tables, workers
from studies.records.database import Database, _head, open_database
from studies.spec.study import StudySpec

SMALL: dict[str, Any] = {
    "budget": {"trials": 4},
    "probes": {"profiles": 1},
    "scorers": {"clip_score": short_spec()["scorers"]["clip_score"]},
    "objective": {"clip_score": None},
    "final": {"top": 0},
}
HOUR = 3600.0


def with_own_parents(folder: Path) -> dict[str, object]:
    """The short study over copies of its parents."""
    copies = [shutil.copy(DEMO / f"{name}.safetensors", folder) for name in ("animals", "foods")]
    return SMALL | {"parents": [str(copy) for copy in copies]}


def rewrite(path: Path) -> None:
    """Other weights, in the same file."""
    data = bytearray(path.read_bytes())
    data[-1000:] = os.urandom(1000)
    with path.open("r+b") as file:
        file.write(data)


def replace_file(path: Path) -> None:
    """Another file under the same name."""
    other = path.with_suffix(".new")
    shutil.copy(DEMO / "foods.safetensors", other)
    rewrite(other)
    other.replace(path)


# -------------------------------------------------------------------------------------- parents' files


class TestParents:
    def test_a_worker_goes_on_with_what_it_holds_and_a_resume_is_refused_until_the_file_is_back(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "undisturbed").mkdir()
        short = begin(tmp_path / "one", with_own_parents(tmp_path / "one"))
        short.run(stop_after=2)
        parent = tmp_path / "one" / "foods.safetensors"
        rewrite(parent)
        short.run(stop_after=1)
        parent.unlink()
        short.run(stop_after=1)
        known = begin(tmp_path / "undisturbed", SMALL)
        known.run()
        assert scores(short) == scores(known)
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            reopen(tmp_path / "one")
        shutil.copy(DEMO / "animals.safetensors", parent)
        with pytest.raises(StudyChangedError, match="is not the file the study began with"):
            reopen(tmp_path / "one")
        shutil.copy(DEMO / "foods.safetensors", parent)
        reopen(tmp_path / "one").database.close()

    @pytest.mark.parametrize("change", first_fast(1, [rewrite, replace_file, Path.unlink]))
    def test_parents_that_are_read_at_every_merge_must_stay_as_they_were(
        self, tmp_path: Path, change: Callable[[Path], None]
    ) -> None:
        spec = parsed(tmp_path, with_own_parents(tmp_path))
        plan = make_plan(spec)
        dtypes = live_dtypes(torch.device("cpu"), torch.float32)
        model = ResidentModel(plan.ingredients, device="cpu", live_dtypes=dtypes, placement=Placement.FILES)
        blueprint = plan.blueprint(hash_parents(plan))
        one, other = (
            blueprint.recipe(plan.space.numbers_by_place(dict.fromkeys(names(plan.space), x))) for x in (0.25, 0.75)
        )
        model.merge(replace(one, dtype=None))
        change(tmp_path / "foods.safetensors")
        with pytest.raises(CheckpointError, match=r"parent B .*foods.safetensors\) (is gone|has changed) since"):
            model.merge(replace(other, dtype=None))

    def test_a_file_that_changes_between_hashing_and_loading_is_not_taken_for_the_one_that_was_hashed(
        self, tmp_path: Path
    ) -> None:
        plan = make_plan(parsed(tmp_path, with_own_parents(tmp_path)))
        files = hash_parents(plan)
        rewrite(tmp_path / "animals.safetensors")
        with pytest.raises(CheckpointError, match=r"parent A .* has changed since it was opened"):
            build_runtime(plan, files, tmp_path / "cache")


def parsed(folder: Path, changes: dict[str, object]) -> StudySpec:
    return StudySpec.model_validate(short_spec(**changes), context={"base_dir": folder})


def names(space: object) -> list[str]:
    return [row.name for row in space.parameters]  # type: ignore[attr-defined]


def scores(short: ShortStudy) -> list[object]:
    trials = stored_trials.load_trials(short.records)
    return [
        (trial.number, trial.state, trial.objectives, stored_renders.load_scores(short.records, trial))
        for trial in trials
    ]


# ------------------------------------------------------------------------------------------- clocks


class Clocks:
    """The wall clock and the monotonic one of this process, moved by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._real = (time.time, time.monotonic)
        self.set_by = self.passed = 0.0
        patch.setattr(time, "time", lambda: self._real[0]() + self.passed + self.set_by)
        patch.setattr(time, "monotonic", lambda: self._real[1]() + self.passed)


def elsewhere(database: Database) -> str:
    """A worker of another machine that has just given a sign of life."""
    worker = workers.register_worker(database)
    with database.write() as connection:
        connection.execute(tables.workers.update().where(tables.workers.c.id == worker).values(host="elsewhere"))
    return worker


@pytest.mark.parametrize("hours", first_fast(1, [-3, 3]))
def test_a_clock_that_is_set_kills_nobody_and_keeps_no_dead_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    database = open_database(f"sqlite:///{tmp_path}/study.db")
    clocks = Clocks(monkeypatch)
    living, dead, here = elsewhere(database), elsewhere(database), workers.register_worker(database)
    heartbeat = Heartbeat(database, workers.register_worker(database))
    assert {living, dead, here} <= heartbeat.alive()
    clocks.set_by = hours * HOUR
    assert {living, dead, here} <= heartbeat.alive()
    for _ in range(4):
        clocks.passed += HEARTBEAT_SECONDS
        workers.sign_of_life(database, living)
        assert {living, here} <= heartbeat.alive()
    clocks.passed += workers.STALE_SECONDS - HEARTBEAT_SECONDS
    workers.sign_of_life(database, living)
    assert heartbeat.alive() & {living, dead, here} == {living, here}
    database.close()


def test_workers_of_a_server_see_each_other_by_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines need not agree on the time."""
    database = open_database(new_postgresql_url())
    worker, clocks = elsewhere(database), Clocks(monkeypatch)
    clocks.set_by = 5 * HOUR
    assert worker in workers.live_workers(database)
    workers.sign_of_life(database, worker)
    clocks.set_by = -5 * HOUR
    assert worker in workers.live_workers(database)
    database.close()


class Jump(Recorder):
    """Sets the clock while every trial runs."""

    def __init__(self, clocks: Clocks, *, stop_after: int) -> None:
        super().__init__(stop_after=stop_after)
        self._clocks = clocks

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted):
            self._clocks.set_by += 5 * HOUR if event.trial % 2 else -5 * HOUR


def test_minutes_of_work_are_not_counted_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = begin(tmp_path, SMALL | {"budget": {"trials": 4, "minutes": 30}})
    recorder = Jump(Clocks(monkeypatch), stop_after=9)
    TrialLoop(short.records, short.runtime, short.artifacts, recorder, recorder.stop).run()
    assert [row.state for row in recorder.finished] == ["complete"] * 4
    assert any(abs((row.finished_at or 0) - row.started_at) > HOUR for row in recorder.finished)
    short.database.close()


# --------------------------------------------------------------------------------- another version


class Upgrade(Recorder):
    """Another version brings the tables to its schema while a trial runs."""

    def __init__(self, database: Database, at: int) -> None:
        super().__init__()
        self._database, self._at = database, at

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted) and event.trial == self._at:
            set_version(self._database, "0999")


def set_version(database: Database, version: str) -> str:
    """Returns the one before."""
    with database.engine.begin() as connection:
        before = connection.execute(sa.text(f"SELECT version_num FROM {tables.VERSION_TABLE}")).scalar_one()
        connection.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '{version}'"))
    return str(before)


def test_a_worker_writes_nothing_into_tables_of_another_version_and_the_trial_is_run_again(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    recorder = Upgrade(short.database, at=1)
    with pytest.raises(DatabaseError, match=r"another version of mergetune .*schema 0999, this version has \d+"):
        TrialLoop(short.records, short.runtime, short.artifacts, recorder).run()
    asked = len(optuna_studies.optuna_trials(short.records))
    with pytest.raises(DatabaseError, match="another version"):
        short.run()
    assert len(optuna_studies.optuna_trials(short.records)) == asked == 2  # none was taken
    trials = stored_trials.load_trials(short.records)
    assert [(trial.number, trial.state) for trial in trials] == [(0, "complete"), (1, "running")]
    assert stored_renders.load_scores(short.records, trials[1]) == ({}, {})
    with pytest.raises(DatabaseError, match="newer mergetune"):
        open_database(short.database.url)
    set_version(short.database, str(_head()))
    workers.remove_worker(short.database, trials[1].worker_id)  # its process would have ended
    assert [number for number, _ in short.run().started] == [1, 2, 3]
    short.database.close()


# ------------------------------------------------------------------------------------------ scorers


def test_a_scorer_that_cannot_take_one_image_fails_that_trial_alone_and_names_it(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    known = short.runtime.evaluator
    whole = known.scoring.scorers["clip_score"]
    renders: list[torch.Tensor] = []

    class Moody:
        """Works, but for one picture of the second trial."""

        info = whole.info

        def score(self, images: SuiteImages) -> torch.Tensor:
            renders.extend(images.images[5:6] if len(images) == 8 else ())
            if len(renders) == 2 and any(torch.equal(image, renders[1]) for image in images.images):
                raise ValueError("a picture\nof nothing")
            return whole.score(images)  # type: ignore[arg-type, return-value]

    evaluator = Evaluator(
        known.resident, known.renderer, {**known.scoring.scorers, "clip_score": Moody()}, degenerate_limit=8
    )
    moody = replace(short, runtime=replace(short.runtime, evaluator=evaluator))
    states = [(row.number, row.state, row.reason) for row in moody.run().finished]
    assert states == [
        (0, "complete", None),
        (1, "failed", "scorer clip_score failed at item 5: ValueError: a picture"),
        (2, "complete", None),
        (3, "complete", None),
    ]
    short.database.close()
