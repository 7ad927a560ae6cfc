"""What killed workers and starts leave behind: the next one removes what is surely dead, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from demo_study import SMALL, ShortStudy, begin

from optimizer.upkeep.doctor import Diagnosis, diagnose
from optimizer.work.heartbeat import RERUNS
from studies.files.artifacts import Artifacts, TrialFiles
from studies.records import stored_trials, tables, workers
from studies.records.optuna_studies import BEGINNING
from studies.records.stored_studies import open_study


@pytest.fixture
def short(tmp_path: Path) -> ShortStudy:
    """With both parents done."""
    short = begin(tmp_path, {**SMALL, "budget": {"trials": 6}}, shared=True)
    short.run(stop_after=2)
    return short


KILLED = """
import os, signal, sys
from studies.records import stored_trials, workers
from studies.records.database import open_database
from studies.records.origins import Origin
from studies.records.stored_studies import open_study
import optuna
url, attempt, trial = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "trial"
database = open_database(url)
records = open_study(database, "short")
worker = workers.register_worker(database)
workers.turn_to(database, worker, records.study, "trials")
number = 0
if trial:
    number = optuna.load_study(study_name="short", storage=database.storage).ask().number
    recipe = stored_trials.load_trial(records, 1).recipe
    stored_trials.start_trial(records, number, Origin("uniform", "0.5"), recipe, worker, attempt)
print(worker, number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(short: ShortStudy, *, attempt: int = 1, trial: bool = True) -> tuple[str, int]:
    """Run a worker that is killed, at a trial or between two; returns its id and its trial."""
    command = [sys.executable, "-c", KILLED, short.database.url, str(attempt), "trial" if trial else "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    worker, number = done.stdout.split()
    return worker, int(number)


def files_of(short: ShortStudy, number: int, worker: str) -> TrialFiles:
    return short.artifacts.of_trial(short.study.key, number, worker)


def put(files: TrialFiles, *names: str) -> list[Path]:
    for name in names:
        files.store.write(files.name(name), b"content")
    return [Path(files.store.location) / files.name(name) for name in names]


def entries(short: ShortStudy) -> int:
    with short.database.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(tables.workers)).scalar_one()


def look(short: ShortStudy) -> Diagnosis:
    return diagnose(short.database, [open_study(short.database, "short")], short.artifacts, mend=False)


@pytest.mark.parametrize("attempt", [1, pytest.param(RERUNS, marks=pytest.mark.slow)])
def test_after_a_kill_nothing_is_wrong_and_the_next_worker_leaves_no_trace_of_it(
    short: ShortStudy, attempt: int
) -> None:
    worker, number = killed(short, attempt=attempt)
    put(files_of(short, number, worker), "0000.png", "sheet.jpg", ".0001.png.mergetune-0123456789abcdef.part/0001.png")
    found = look(short)
    assert found.healthy
    assert [(each.kind, each.trial) for each in found.left] == [("stale trial", number)]
    short.run(stop_after=1)
    assert entries(short) == 0
    assert look(short) == Diagnosis(mended=(), left=())


def test_a_worker_that_registers_while_the_dead_are_looked_for_is_not_one_of_them(short: ShortStudy) -> None:
    dead, _ = killed(short, trial=False)
    born: list[str] = []

    def alive() -> frozenset[str]:
        born.append(workers.register_worker(short.database))
        return workers.live_workers(short.database)

    assert workers.dead_workers(short.database, alive).keys() == {dead}
    assert workers.is_registered(short.database, *born)


@pytest.mark.parametrize("lives_by", ["a sign", "a trial"])
def test_a_worker_that_wakes_up_before_it_is_removed_stays(short: ShortStudy, lives_by: str) -> None:
    worker, _ = killed(short, trial=lives_by == "a trial")
    with short.database.engine.connect() as connection:
        seen_at = connection.execute(sa.select(tables.workers.c.seen_at)).scalar_one()
    if lives_by == "a sign":
        workers.sign_of_life(short.database, worker)
    workers.remove_dead_worker(short.database, worker, seen_at)
    assert workers.is_registered(short.database, worker)


def test_a_worker_without_an_entry_claims_no_final(short: ShortStudy) -> None:
    worker = workers.register_worker(short.database)
    workers.remove_worker(short.database, worker)
    assert not workers.claim_final(short.records, worker, frozenset())


def test_a_part_folder_belongs_to_the_trial_it_lies_in(short: ShortStudy) -> None:
    worker, number = killed(short)
    put(files_of(short, number, worker), ".0001.png.mergetune-0123456789abcdef.part/0001.png")
    with short.database.write() as connection:  # another worker has taken it over
        other = workers.register_worker(short.database)
        trial = tables.trials.c.number == number
        connection.execute(tables.trials.update().where(trial).values(worker_id=other))
    assert look(short).healthy


def test_a_trial_that_is_given_up_leaves_no_file(short: ShortStudy) -> None:
    worker, number = killed(short, attempt=RERUNS + 1)
    left = put(files_of(short, number, worker), "0000.png", "features.npz")
    short.run(stop_after=2)
    row = stored_trials.load_trial(short.records, number)
    assert row is not None
    assert row.failure == "worker_died"
    assert [path.exists() for path in left] == [False, False]
    assert entries(short) == 0
    assert look(short) == Diagnosis(mended=(), left=())


@pytest.mark.parametrize("until_the_end", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_clean_up_that_was_cut_off_is_finished(short: ShortStudy, until_the_end: bool) -> None:
    """The names of renders are gone from the database, and the files are not."""
    row = stored_trials.load_trial(short.records, 0)
    assert row is not None
    left = put(files_of(short, 0, row.worker_id), "9998.png", "9999.png")
    worker, _ = killed(short, trial=False)
    left += put(files_of(short, 1, worker), "0000.png")
    found = look(short)
    assert found.healthy
    assert [each.kind for each in found.left] == ["orphan file"] * 3 + ["dead worker"]
    short.run(stop_after=None if until_the_end else 1)
    assert not any(path.exists() for path in left)
    assert entries(short) == 0
    assert look(short) == Diagnosis(mended=(), left=())


def test_what_may_be_somebody_elses_stays_and_is_told(short: ShortStudy) -> None:
    """As of a copy of the database that shares the store, a worker of another machine, or a newer backup."""
    killed(short, trial=False)
    of_a_copy = put(files_of(short, 1, "ofacopy"), "0000.png") + put(files_of(short, 99, "newer"), "sheet.jpg")
    other_study = put(short.artifacts.of_trial("another", 0, "worker"), "0000.png")
    living = workers.register_worker(short.database)
    short.run(stop_after=1)
    assert all(path.exists() for path in (*of_a_copy, *other_study))
    assert workers.is_registered(short.database, living)
    found = look(short)
    assert not found.healthy
    assert [(each.kind, each.trial, each.by_itself) for each in found.left] == [
        ("orphan file", 1, False),
        ("orphan file", 99, False),
    ]


STARTED = """
import os, signal, sys
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.stored_studies import create_study, open_study
url, folder, name = sys.argv[1:]
database, store = open_database(url), Artifacts.beside(url, folder)
before = open_study(database, "short").study

class Cut:
    def into_optuna(self, study, key):
        for number in range(3):
            store.of_trial(key, number, "worker").save_features({})
        print(key, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

create_study(database, before.spec.model_copy(update={"study": name}), before.parents, ["maximize"], ["x"], Cut())
"""


def cut_off_start(short: ShortStudy, name: str) -> Path:
    """Kill a start while it copies trials; returns the folder of its files."""
    folder = short.artifacts.location
    command = [sys.executable, "-c", textwrap.dedent(STARTED), short.database.url, folder, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    return Path(folder) / "studies" / done.stdout.strip()


@pytest.mark.parametrize("by", ["worker", pytest.param("doctor", marks=pytest.mark.slow)])
def test_a_start_that_was_killed_leaves_nothing_once_somebody_came(short: ShortStudy, by: str) -> None:
    folders = [cut_off_start(short, name) for name in ("rescored", "warm")]
    assert all(len(list(folder.rglob("features.npz"))) == 3 for folder in folders)
    found = look(short)
    assert found.healthy
    assert [(each.kind, each.study) for each in found.left] == [
        ("cut-off start", "rescored"),
        ("cut-off start", "warm"),
    ]
    if by == "worker":
        short.run(stop_after=1)
    else:
        diagnose(short.database, [short.records], short.artifacts, mend=True)
    assert not any(folder.exists() for folder in folders)
    assert optuna.get_all_study_names(storage=short.database.storage) == ["short"]
    assert look(short) == Diagnosis(mended=(), left=())


def test_a_study_that_began_with_copies_is_no_start_that_was_cut_off(short: ShortStudy) -> None:
    study = optuna.load_study(study_name="short", storage=short.database.storage)
    study.set_user_attr(BEGINNING, short.study.key)
    assert look(short) == Diagnosis(mended=(), left=())


def test_a_store_that_cannot_be_cleaned_ends_no_worker_and_its_entry_stays(short: ShortStudy) -> None:
    killed(short, trial=False)

    class Refuses(type(short.artifacts.store)):  # type: ignore[misc]
        """A folder in which nothing can be listed."""

        def files(self, prefix: str) -> object:
            from studies.errors import ArtifactError

            raise ArtifactError(f"Permission denied ({prefix})")

    store = Refuses(Path(short.artifacts.location))
    ShortStudy(short.records, short.runtime, Artifacts(store)).run(stop_after=1)
    assert entries(short) == 1
