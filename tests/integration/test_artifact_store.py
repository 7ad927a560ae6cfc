"""Studies whose artifacts are in an S3-compatible store, or on a disk that fills up: a real server and a real disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from demo_study import PROMPTS, Recorder, ShortStudy, begin, make_runtime, reopen, short_spec
from object_store import BUCKET, ObjectStore, object_store
from optuna.trial import TrialState

from optimizer.dashboard.server import make_server
from optimizer.observe.events import Event, OutageBegan, TrialStarted
from optimizer.outcome.export import Watch, deliver
from optimizer.outcome.warm_start import find_warm_start
from optimizer.runtime.setup import Runtime
from optimizer.trial.evaluation import pixels_digest
from optimizer.work.trial_loop import TrialLoop
from studies.errors import ArtifactError
from studies.files.artifacts import Artifacts, stored_name
from studies.records import stored_renders, stored_studies, stored_trials, values, workers
from studies.records.database import open_database
from studies.spec.study import parse_spec
from studies.spec.warm_start import WarmStartSettings

WHOLE: dict[str, Any] = {
    "suite": {"prompts": PROMPTS, "seeds": [1], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None, "likeness": {**short_spec()["scorers"]["likeness"], "kind": "kernel"}},
    "objective": {"sharpness": None, "likeness": None},
    "sampler": {"name": "random"},
    "final": {"top": 0},
    "budget": {"trials": 4},
    "probes": {"uniform": [], "profiles": 0},
}
SMALL = WHOLE | {
    "suite": WHOLE["suite"] | {"prompts": PROMPTS[:2]},
    "scorers": {"sharpness": None},
    "objective": {"sharpness": None},
}


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Of all small studies: loading it takes longer than they do."""
    folder = tmp_path_factory.mktemp("runtime")
    return make_runtime(parse_spec(yaml.safe_dump(short_spec(**SMALL)), base_dir=folder), folder)


def begun(folder: Path, place: str | Path, runtime: Runtime) -> ShortStudy:
    database = open_database(f"sqlite:///{folder}/study.db")
    objective = runtime.objective
    records = stored_studies.create_study(
        database, runtime.spec, runtime.parents, objective.directions, objective.names
    )
    return ShortStudy(records, runtime, Artifacts.beside(database.url, place))


def run(short: ShortStudy, recorder: Recorder, patience: float = 60) -> None:
    try:
        TrialLoop(short.records, short.runtime, short.artifacts, recorder, recorder.stop, patience).run()
    finally:
        short.database.close()


def referred(short: ShortStudy) -> list[str]:
    """Names of the files that the database refers to."""
    found: list[str] = []
    for trial in stored_trials.load_trials(short.records):
        found += [each.file for each in stored_renders.load_renders(short.records, trial) if each.file is not None]
        found += [] if trial.contact_sheet is None else [stored_name(trial.contact_sheet)]
        if stored_renders.load_scores(short.records, trial)[1]:
            found.append(f"studies/{short.study.key}/{trial.number}-{trial.worker_id[:12]}/features.npz")
    return sorted(found)


def there(short: ShortStudy) -> list[str]:
    return sorted(file.name for file in short.artifacts.store.files("studies/"))


def assert_whole(short: ShortStudy) -> None:
    """Every trial is complete, was evaluated once, and has all its files; there are no others."""
    rows = stored_trials.load_trials(short.records)
    assert [(row.number, row.state, row.attempt) for row in rows] == [(n, "complete", 1) for n in range(4)]
    told = optuna.load_study(study_name="short", storage=short.database.storage).trials
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * 4
    assert there(short) == referred(short)


def test_a_study_with_its_artifacts_in_a_bucket_from_its_start_to_the_export(
    objects: ObjectStore, tmp_path: Path
) -> None:
    place = f"s3://{BUCKET}/whole"
    first = begin(tmp_path, WHOLE)
    run(replace(first, artifacts=Artifacts.beside(first.database.url, place)), Recorder(stop_after=2))
    short = reopen(tmp_path)
    short = replace(short, artifacts=Artifacts.beside(short.database.url, place))
    run(short, Recorder())
    assert_whole(short)
    assert all(name.startswith("whole/") for name in objects.names("whole"))
    trial = stored_trials.load_trials(short.records)[0]
    for render in stored_renders.load_renders(short.records, trial):
        assert render.file is not None
        pixels = np.asarray(short.artifacts.open_render(render.file)).transpose(2, 0, 1)
        assert pixels_digest(_tensor(pixels)) == render.pixels_sha256
    silent = Watch(written=lambda _size: None, compared=lambda _size: None, rendered=lambda _done: None)
    target = tmp_path / "best.safetensors"
    done = deliver(short.records, trial, short.runtime.plan, short.artifacts, target, overwrite=False, watch=silent)
    assert "identical, to the bit" in done.proof
    _assert_another_begins_with_its_trials(short, place, tmp_path)
    _assert_the_dashboard_shows(short, trial)


def _assert_another_begins_with_its_trials(short: ShortStudy, place: str, folder: Path) -> None:
    """A new study elsewhere takes files over from the bucket, into a folder."""
    settings = WarmStartSettings(study="short", storage=short.database.url, artifacts=place)
    spec = short.runtime.spec.model_copy(update={"study": "warm", "warm_start": settings})
    plan, url = replace(short.runtime.plan, spec=spec), f"sqlite:///{folder}/warm.db"
    found = find_warm_start(plan, short.study.parents, torch.device("cpu"), url, folder / "warm")
    assert found is not None
    database, artifacts, objective = open_database(url), Artifacts.beside(url, folder / "warm"), plan.objective
    copied = found.copied_trials(plan, artifacts)
    records = stored_studies.create_study(
        database, spec, short.study.parents, objective.directions, objective.names, copied
    )
    assert [trial.source for trial in stored_trials.load_trials(records)] == [f"short trial {n}" for n in range(4)]
    new = replace(short, records=records, artifacts=artifacts)
    assert there(new) == referred(new)
    assert sum(name.endswith("features.npz") for name in there(new)) == 4
    database.close()


def _tensor(pixels: np.ndarray[Any, Any]) -> Any:
    return torch.from_numpy(pixels.copy())


def _assert_the_dashboard_shows(short: ShortStudy, row: values.StoredTrial) -> None:
    from http.client import HTTPConnection

    assert row.contact_sheet is not None
    server = make_server(short.database, short.artifacts, "127.0.0.1", 0, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    trial = optuna.load_study(study_name="short", storage=short.database.storage).trials[row.number]
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", f"/artifacts/1/{trial._trial_id}/{row.contact_sheet}")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (200, "image/jpeg")
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.read() == short.artifacts.store.read(stored_name(row.contact_sheet))
    finally:
        connection.close()
        server.close()
        thread.join(10)
        short.database.close()


class Cut(Recorder):
    """Takes the store away while a trial is evaluated, and brings it back when it is missed, or not."""

    def __init__(self, objects: ObjectStore, *, back: bool) -> None:
        super().__init__()
        self._objects, self._back = objects, back

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted) and event.trial == 2:
            self._objects.stop()
        if isinstance(event, OutageBegan) and self._back:
            threading.Timer(1.0, self._objects.start).start()


def test_a_store_that_is_away_for_a_while_is_waited_for(objects: ObjectStore, runtime: Runtime, tmp_path: Path) -> None:
    short = begun(tmp_path, f"s3://{BUCKET}/while", runtime)
    recorder = Cut(objects, back=True)
    run(short, recorder)
    assert [number for number, _ in recorder.started] == [0, 1, 2, 3]
    (outage,) = recorder.of(OutageBegan)
    assert "the artifact store (artifact store s3://merges/while" in outage.reason
    assert_whole(short)


def test_a_store_that_stays_away_ends_the_worker_and_another_runs_its_trial_again(
    objects: ObjectStore, runtime: Runtime, tmp_path: Path
) -> None:
    short = begun(tmp_path, f"s3://{BUCKET}/gone", runtime)
    try:
        with pytest.raises(ArtifactError, match=r"artifact store has been away for .* bring it back and resume"):
            run(short, Cut(objects, back=False), patience=1)
        trials = stored_trials.load_trials(short.records)
        assert [trial.state for trial in trials] == ["complete", "complete", "running"]
        assert workers.live_workers(short.database) == frozenset()
    finally:
        objects.start()
    assert there(short) == referred(short)
    recorder = Recorder()
    run(short, recorder)
    assert [number for number, _ in recorder.started] == [2, 3]
    assert_whole(short)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few files, which can be made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_worker_with_nothing_half_stored(
    small_disk: Path, runtime: Runtime, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    short = begun(folder, small_disk / "artifacts", runtime)
    with pytest.raises(ArtifactError, match=r"No space left on device.*make room") as told:
        run(short, Recorder())
    assert str(small_disk) in str(told.value)
    trials = stored_trials.load_trials(short.records)
    assert trials[-1].state == "running"
    assert there(short) == referred(short)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run(short, Recorder())
    assert_whole(short)
