"""Databases that are damaged on purpose: what is wrong is found and mended, and the study goes to its end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from command_line import caller, enter
from demo_study import ShortStudy, make_runtime, short_spec
from optuna.trial import FrozenTrial, TrialState
from real_databases import new_postgresql_url

from optimizer.runtime.setup import Runtime
from optimizer.upkeep.doctor import Diagnosis, diagnose
from optimizer.work.heartbeat import RERUNS
from studies.files.artifacts import Artifacts, stored_name
from studies.records import stored_renders, stored_studies, stored_trials, tables, workers
from studies.records.database import open_database
from studies.records.origins import Origin
from studies.records.values import StoredTrial
from studies.spec.study import StudySpec

SMALL: dict[str, Any] = {
    "budget": {"trials": 9},
    "sampler": {"name": "random"},
    "probes": {"profiles": 2},
    "scorers": {"clip_score": short_spec()["scorers"]["clip_score"]},
    "objective": {"clip_score": None},
    "final": {"top": 0},
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("runtime")
    return make_runtime(StudySpec.model_validate(short_spec(**SMALL), context={"base_dir": folder}), folder)


def begun(runtime: Runtime, folder: Path, url: str, trials: int) -> ShortStudy:
    """A study of which some trials are done."""
    database, objective = open_database(url), runtime.objective
    records = stored_studies.create_study(
        database, runtime.spec, runtime.parents, objective.directions, objective.names
    )
    short = ShortStudy(records, runtime, Artifacts.beside(url, folder / "artifacts"))
    short.run(stop_after=trials)
    return short


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def short(request: pytest.FixtureRequest, runtime: Runtime, tmp_path: Path) -> Iterator[ShortStudy]:
    url = new_postgresql_url() if request.param == "postgresql" else f"sqlite:///{tmp_path}/study.db"
    found = begun(runtime, tmp_path, url, trials=5)
    yield found
    found.database.close()


def look(short: ShortStudy, *, mend: bool = False, artifacts: Artifacts | None = None) -> Diagnosis:
    records = stored_studies.open_study(short.database, short.study.name)
    return diagnose(short.database, [records], artifacts or short.artifacts, mend=mend)


def kinds(diagnosis: Diagnosis) -> list[tuple[str, int | None]]:
    return sorted(((row.kind, row.trial) for row in diagnosis.left), key=str)


def row_of(short: ShortStudy, number: int) -> StoredTrial:
    row = stored_trials.load_trial(short.records, number)
    assert row is not None
    return row


def told(short: ShortStudy) -> list[FrozenTrial]:
    return optuna.load_study(study_name=short.study.name, storage=short.database.storage).trials


def dead_worker(short: ShortStudy) -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    worker = workers.register_worker(short.database)
    with short.database.write() as connection:
        this_worker = tables.workers.c.id == worker
        connection.execute(tables.workers.update().where(this_worker).values(pid=process.pid))
    return worker


def taken(short: ShortStudy, worker: str, attempt: int = 1) -> int:
    """A trial that a worker has begun; its number."""
    number = optuna.load_study(study_name=short.study.name, storage=short.database.storage).ask().number
    recipe = row_of(short, 2).recipe
    stored_trials.start_trial(short.records, number, Origin("uniform", "0.5"), recipe, worker, attempt)
    return number


def execute(short: ShortStudy, *statements: str) -> None:
    with short.database.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.mark.parametrize("short", ["sqlite", "postgresql"], indirect=True)
def test_everything_that_crashes_leave_is_found_and_mended_and_the_study_finishes(short: ShortStudy) -> None:
    assert look(short) == Diagnosis(mended=(), left=())
    stale, hopeless = taken(short, dead_worker(short)), taken(short, dead_worker(short), RERUNS + 1)
    ended, idle = taken(short, dead_worker(short)), dead_worker(short)
    optuna.load_study(study_name="short", storage=short.database.storage).tell(ended, state=TrialState.FAIL)
    living = workers.register_worker(short.database)
    busy = taken(short, living)
    before = told(short)[3]
    execute(
        short,
        "UPDATE trials SET state = 'RUNNING' WHERE number = 3",
        "DELETE FROM trial_values WHERE trial_id IN (SELECT trial_id FROM trials WHERE number = 3)",
    )
    folder, mine = Path(short.artifacts.location), f"studies/{short.study.key}"
    (lost, *kept) = [row.file for row in stored_renders.load_renders(short.records, row_of(short, 0)) if row.file]
    (folder / lost).unlink()
    sheet = row_of(short, 2).contact_sheet
    assert sheet is not None
    (folder / stored_name(sheet)).unlink()
    orphans = [folder / f"{mine}/{name}" for name in ("2-ofthedead/9999.png", "77-nobody/0000.png")]
    busily = short.artifacts.of_trial(short.study.key, busy, living).name("0000.png")
    others = [folder / "studies/ofanotherdatabase/0-aa/0000.png", folder / busily]
    for path in (*orphans, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")

    expected = [
        ("dead worker", None),
        ("ended elsewhere", ended),
        ("missing renders", 0),
        ("missing sheet", 2),
        ("not told", 3),
        ("orphan file", 2),
        ("orphan file", 77),
        ("stale trial", hopeless),
        ("stale trial", stale),
    ]
    assert kinds(look(short)) == sorted(expected, key=str)
    assert kinds(look(short)) == sorted(expected, key=str)  # looking changes nothing
    assert all(re.search(r"; [\w ]+ would be [\w ,]+$", row.words(mended=False)) for row in look(short).left)
    diagnosis = look(short, mend=True)
    assert diagnosis.left == ()
    assert {(row.kind, row.trial) for row in diagnosis.mended} >= set(expected)
    assert look(short) == Diagnosis(mended=(), left=())

    assert (row_of(short, stale).state, row_of(short, stale).attempt) == ("running", 2)
    assert f"{RERUNS + 1} workers died" in (row_of(short, hopeless).reason or "")
    assert "ended by another program: FAIL" in (row_of(short, ended).reason or "")
    after = told(short)[3]
    assert (after.state, after.values, after.params) == (TrialState.COMPLETE, before.values, before.params)
    assert [row.file for row in stored_renders.load_renders(short.records, row_of(short, 0))].count(None) == 1
    assert all((folder / name).exists() for name in kept)
    assert [path.exists() for path in (*orphans, *others)] == [False, False, True, True]
    assert workers.is_registered(short.database, living)
    assert not workers.is_registered(short.database, idle)

    workers.remove_worker(short.database, living)  # it gives its trial back
    assert [number for number, _ in short.run().started] == [stale, busy]
    rows = stored_trials.load_trials(short.records)
    assert [row.number for row in rows if row.state != "complete"] == [hopeless, ended]
    assert row_of(short, stale).attempt == 2
    assert [trial.state for trial in told(short)] == [
        TrialState.FAIL if number in {hopeless, ended} else TrialState.COMPLETE for number in range(9)
    ]
    assert look(short) == Diagnosis(mended=(), left=())


def test_trials_that_optuna_lost_are_given_back_to_it_from_their_recipes(short: ShortStudy) -> None:
    """As after a backup of one half: Optuna's tables are older than ours."""
    before = told(short)
    running = taken(short, dead_worker(short))
    for table in ("params", "values", "user_attributes", "system_attributes"):
        execute(short, f"DELETE FROM trial_{table} WHERE trial_id IN (SELECT trial_id FROM trials WHERE number >= 2)")
    execute(short, "DELETE FROM trials WHERE number >= 2")
    assert kinds(look(short)) == [("unknown to Optuna", running), ("unknown to Optuna", None)]
    assert look(short, mend=True).left == ()
    after = told(short)
    assert [(row.state, row.values) for row in after] == [(row.state, row.values) for row in before]
    assert [row.params for row in after] == [pytest.approx(row.params) for row in before]
    assert [number for number, _ in short.run().started] == [5, 6, 7, 8]
    assert [row.state for row in stored_trials.load_trials(short.records)] == ["complete"] * 9


def test_what_only_people_can_mend_is_left_with_exit_code_1(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = begun(runtime, tmp_path, f"sqlite:///{tmp_path}/study.db", trials=3)
    call = caller(monkeypatch, capsys, "study", "doctor")
    enter(tmp_path, monkeypatch)
    here = ("--storage", "study.db", "--artifacts", "artifacts")
    assert "Nothing is wrong." in call("short", *here, code=0).out
    dead_worker(short)
    looked = call(*here, code=0).out.splitlines()
    assert looked[0].startswith("left behind: dead worker: worker ")
    assert looked[0].endswith("is dead; its entry would be removed")
    found = json.loads(call(*here, "--json", code=0).out)
    (left,) = found["left"]
    assert (found["healthy"], left["can_mend"], left["by_itself"]) == (True, True, True)
    assert "would be removed" in left["words"]
    advice = looked[-1].removeprefix("Repair it with: mergetune study doctor ")
    assert advice == f"--mend --storage {tmp_path}/study.db --artifacts artifacts"
    mended = call(*shlex.split(advice), code=0).out.splitlines()[0]
    assert mended.startswith("mended: dead worker: worker ")
    assert mended.endswith("is dead; its entry was removed")
    assert json.loads(call(*here, "--json", code=0).out) == {"healthy": True, "mended": [], "left": []}

    elsewhere = call("--storage", "study.db", "--artifacts", "elsewhere", "--mend", code=1).out
    assert "name the right location with --artifacts" in elsewhere
    assert look(short) == Diagnosis(mended=(), left=())  # nothing was forgotten for that

    execute(short, "UPDATE trials SET state = 'FAIL' WHERE number = 2")
    stored_trials.start_trial(short.records, 1, Origin("sampler", "x"), row_of(short, 1).recipe, "w")
    execute(
        short,
        "DELETE FROM mergetune_trials WHERE number = 1",
        "INSERT INTO mergetune_scores (trial_id, scorer, value) "
        "SELECT id, 'likeness', 0.5 FROM mergetune_trials WHERE number = 0",
    )
    found = json.loads(call("short", *here, "--mend", "--json", code=1).out)
    assert not found["healthy"]
    assert [(row["kind"], row["trial"], row["can_mend"]) for row in found["left"]] == [
        ("contradiction", 2, False),
        ("unknown to us", 1, False),
        ("missing features", 0, False),
    ]
    optuna.delete_study(study_name="short", storage=short.database.storage)
    assert "Optuna's part is gone" in " ".join(call("short", *here, code=1).out.split())
    assert "no study named 'other'" in call("other", *here, code=2).err
    short.database.close()
