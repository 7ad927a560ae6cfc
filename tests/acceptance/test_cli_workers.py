"""Studies that are registered, and workers that take them: as a user types it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Call
from demo_study import DEMO, SMALL, short_spec, write_spec
from real_databases import new_postgresql_url

from studies.records import stored_studies, stored_trials, values, workers
from studies.records.database import open_database

CHANGES = {**SMALL, "budget": {"trials": 4}, "probes": {"uniform": [0.5], "profiles": 0}}


def trials_of(url: str, name: str) -> list[values.StoredTrial]:
    database = open_database(url, create=False)
    try:
        return stored_trials.load_trials(stored_studies.open_study(database, name))
    finally:
        database.close()


def test_studies_wait_for_workers_pause_and_go_on(folder: Path, call: Call) -> None:
    for name in ("first", "second"):
        said = call("study", "start", write_spec(folder / f"{name}.yaml", **CHANGES, study=name), "--detach", code=0)
        assert f"{name} is registered" in said.out
    url = f"sqlite:///{folder}/mergetune.db"
    assert trials_of(url, "first") == []
    assert "continue with: mergetune study resume" in call("study", "pause", "first", code=0).out
    call("study", "priority", "second", "-3", code=0)
    listed = call("study", "list", code=0).out
    assert re.search(r"first .* paused .* 0/4", listed)
    assert "active" in listed
    assert "-3" in listed
    worked = call("worker", "--study", "second", "--until-done", "--models", DEMO, code=0)
    assert "working on study second" in worked.out
    assert "this worker finished 4 trials" in worked.out
    assert (len(trials_of(url, "first")), len(trials_of(url, "second"))) == (0, 4)
    call("study", "resume", "first", "--detach", "--trials", "5", code=0)
    assert "this worker finished 5 trials" in call("worker", "--until-done", code=0).out
    assert {row.state for row in trials_of(url, "first")} == {"complete"}
    assert "finished 0 trials" in call("worker", "--until-done", code=0).out


def test_files_outside_the_model_folders_are_not_read(folder: Path, call: Call) -> None:
    models, elsewhere = folder / "models", folder / "elsewhere"
    for place in (models, elsewhere):
        place.mkdir()
    parents = []
    for index, parent in enumerate(short_spec()["parents"]):
        parents.append(str(elsewhere / f"{index}.safetensors"))
        shutil.copy(parent, parents[-1])
        (models / f"{index}.safetensors").symlink_to(parents[-1])
    spec = write_spec(folder / "first.yaml", **CHANGES, study="first", parents=parents)
    call("study", "start", spec, "--detach", code=0)
    command = ("worker", "--study", "first", "--until-done", "--models", models)
    said = call(*command, code=2).err
    assert re.search(r"parent A \(0.safetensors, sha256 \w{10}...\) is not in the model folders", said)
    for index, parent in enumerate(parents):
        (models / f"{index}.safetensors").unlink()
        shutil.copy(parent, models / f"renamed-{index}.safetensors")
    assert "finished 4 trials" in call(*command, code=0).out
    assert "is not a folder" in call("worker", "--models", folder / "nowhere", code=2).err
    assert "no study named 'third'" in call("worker", "--study", "third", code=2).err


@pytest.mark.slow
def test_a_worker_of_every_study_of_a_server_must_be_told_where_models_are(folder: Path) -> None:
    environment = {**os.environ, "MERGETUNE_STORAGE": new_postgresql_url()}

    def work(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "optimizer.cli", "worker", "--until-done"]
        return subprocess.run(
            command, cwd=folder, env=environment | more, capture_output=True, text=True, timeout=120, check=False
        )

    refused = work()
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert refused.stderr.startswith("error: a worker for all studies of a database server would read any file")
    told = work(MERGETUNE_MODELS=str(DEMO))
    assert (told.returncode, told.stdout) == (0, "this worker finished 0 trials\n"), told.stderr


@pytest.mark.slow
def test_several_workers_of_one_machine_share_a_study_and_end_with_it(folder: Path) -> None:
    write_spec(folder / "shared.yaml", **(CHANGES | {"budget": {"trials": 300}}), study="shared")
    process = subprocess.Popen(
        [sys.executable, "-m", "optimizer.cli", "study", "start", "shared.yaml", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("trial "):
            break
    url = f"sqlite:///{folder}/mergetune.db"
    deadline, names = time.monotonic() + 120, set[str]()
    while time.monotonic() < deadline and len(names) < 2 and process.poll() is None:
        time.sleep(0.5)
        names = {row.worker_id for row in trials_of(url, "shared") if row.state == "complete"}
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    said += rest
    assert process.returncode == 0, said
    assert "Stopped. Continue with" in said
    assert len(names) == 2, said
    database = open_database(url, create=False)
    assert workers.live_workers(database) == frozenset()
    assert "running" not in {
        row.state for row in stored_trials.load_trials(stored_studies.open_study(database, "shared"))
    }
    database.close()


@pytest.mark.parametrize("told", ["0", "many", "-1", "257"])
def test_a_number_of_workers_is_a_number(told: str, folder: Path, call: Call) -> None:
    spec = write_spec(folder / "first.yaml", **CHANGES, study="first")
    assert (
        "--workers takes a number from 1 to 256, or auto"
        in call("study", "start", spec, f"--workers={told}", code=2).err
    )
    assert not (folder / "mergetune.db").exists()
