"""The lock of a study database, held by real processes that are really stopped, and databases that are replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from child_processes import child_process
from real_databases import new_postgresql_url
from stored_study import store_study

from optimizer.system.retry import Retry
from studies.errors import (
    ArtifactsReplacedError,
    DatabaseLockedError,
    DatabaseReplacedError,
    LockLostError,
    WaitEndedError,
)
from studies.files.stores import FolderStore
from studies.records import locking
from studies.records.control import set_priority, study_controls
from studies.records.database import Database, open_database
from studies.system import waiting

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from studies.records import locking
from studies.records.database import open_database
from studies.records.control import set_priority
from studies.records.stored_studies import list_studies
locking.SILENCE_SECONDS, locking.SIGN_SECONDS = 2, 0.5
database = open_database(sys.argv[1], create=False)
records = list_studies(database)[0]
with database.exclusive():
    print("in", flush=True)
    sys.stdin.readline()
    try:
        WRITE
    except BaseException as error:
        print(type(error).__name__, flush=True)
        sys.exit()
print("done", flush=True)
"""
OURS = "set_priority(records, 7)"
OPTUNAS = "database.storage.create_new_trial(1)"


def scored(params: object) -> dict[str, tuple[float, ...]]:
    return {"sharpness": (1.0, 2.0, 3.0, 4.0), "contrast": (1.0, 2.0, 3.0, 4.0)}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else new_postgresql_url()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url)
    store_study(database, "held", scored, trials=3)
    yield database
    database.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that pass in a test."""
    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "STOPPING_SECONDS", 0.5)
    monkeypatch.setattr(locking, "TURN_SECONDS", 1)


def holder(url: str, write: str = OURS) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that has the lock."""
    return child_process(HOLDER.replace("WRITE", write), url, says="in")


def released(child: subprocess.Popen[str]) -> str:
    """What a holder says once it goes on."""
    child.send_signal(signal.SIGCONT)
    out, _ = child.communicate("go\n", timeout=60)
    return out.strip()


@pytest.mark.parametrize("write", [OURS, OPTUNAS])
def test_a_server_gives_a_frozen_holders_lock_to_the_next_and_the_holder_writes_nothing(
    write: str, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(url := new_postgresql_url())
    records = store_study(database, "held", scored, trials=3)
    with holder(url, write) as child:
        child.send_signal(signal.SIGSTOP)
        with database.exclusive():
            set_priority(records, 5)
            said = released(child)
    assert said == "LockLostError"
    (control,) = study_controls(database)
    assert control.priority == 5
    assert len(database.storage.get_all_trials(1)) == 3
    (line,) = [row.getMessage() for row in caplog.records if row.name == waiting.__name__]
    assert f"process {child.pid} on " in line
    assert "since" in line
    database.close()


def test_a_holder_that_is_busy_for_longer_than_a_silence_keeps_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(locking, "SIGN_SECONDS", 0.2)
    database = open_database(new_postgresql_url())
    records = store_study(database, "held", scored, trials=3)
    with database.exclusive():
        time.sleep(2.5)
        set_priority(records, 5)
    assert study_controls(database)[0].priority == 5
    database.close()


def test_whoever_loses_the_lock_takes_it_again_and_does_its_work_once(monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(new_postgresql_url())
    store_study(database, "held", scored, trials=3)
    attempts = []

    def take() -> int:
        with database.exclusive():
            attempts.append(1)
            if len(attempts) == 1:
                with database.engine.connect() as connection:  # as the server does with a session that is silent
                    ends = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    connection.execute(sa.text(ends))
            return database.storage.create_new_trial(1)

    with pytest.raises(LockLostError):
        take()
    attempts.clear()
    Retry(limit_seconds=20)(take)
    assert len(attempts) == 2
    assert len(database.storage.get_all_trials(1)) == 4
    database.close()


def test_a_wait_for_a_frozen_holder_says_for_whom_and_gives_up_in_the_end(
    url: str, database: Database, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(url) as child:
        if database.file is not None:  # a server ends the holder's session by itself
            child.send_signal(signal.SIGSTOP)
        with (
            waiting.ending_when(lambda: False, 1.5),
            pytest.raises(DatabaseLockedError, match=f"process {child.pid} on .*since"),
            database.exclusive(),
        ):
            pass
    (line,) = [row.getMessage() for row in caplog.records if row.name == waiting.__name__]
    assert f"process {child.pid} on " in line
    with database.exclusive():  # the lock goes with its holder
        pass


def test_being_asked_to_stop_ends_a_wait_for_the_lock(url: str, database: Database, quick: None) -> None:
    stop = threading.Event()
    with holder(url), waiting.ending_when(stop.is_set, 600):
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        with pytest.raises(WaitEndedError, match="asked to stop"), database.exclusive():
            pass
        assert time.monotonic() - began < 5


def test_being_asked_to_stop_ends_a_wait_for_another_process_that_writes(tmp_path: Path, quick: None) -> None:
    database = open_database(f"sqlite:///{tmp_path}/study.db")
    records = store_study(database, "held", scored, trials=3)
    other = sa.create_engine(database.url)
    with other.connect() as writing, waiting.ending_when(lambda: True, 600):
        writing.exec_driver_sql("BEGIN IMMEDIATE")
        for write in (lambda: set_priority(records, 1), lambda: database.storage.create_new_trial(1)):
            began = time.monotonic()
            with pytest.raises(WaitEndedError, match="asked to stop"):
                write()
            assert time.monotonic() - began < 5
    set_priority(records, 2)
    other.dispose()
    database.close()


def test_a_frozen_process_holds_no_row_of_a_server_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(locking, "ROW_WAIT_SECONDS", 1)
    database = open_database(url := new_postgresql_url())
    records = store_study(database, "held", scored, trials=3)
    frozen = open_database(url)

    def write_and_fall_silent() -> None:
        with frozen.write() as silent:
            silent.execute(sa.text("UPDATE mergetune_studies SET priority = 1"))
            Retry(limit_seconds=20)(lambda: set_priority(records, 5))
            silent.execute(sa.text("UPDATE mergetune_studies SET priority = 2"))

    with pytest.raises(sa.exc.OperationalError):
        write_and_fall_silent()
    assert study_controls(database)[0].priority == 5
    frozen.close()
    database.close()


def test_a_lock_file_that_is_removed_while_it_is_waited_for_is_no_lock(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/study.db")
    held = threading.Event()
    entered: list[int] = []

    def enter() -> None:
        with database.exclusive():
            entered.append(len(entered))
            held.set()
            time.sleep(0.3)
            entered.append(-1)

    with database.exclusive():
        threads = [threading.Thread(target=enter) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)  # both wait
        (tmp_path / "study.db.lock").unlink()
    for thread in threads:
        thread.join()
    assert entered == [0, -1, 2, -1]
    database.close()


# -------------------------------------------------------------------------------- another file by now


def moved(file: Path) -> None:
    file.rename(file.with_name("elsewhere.db"))


def removed(file: Path) -> None:
    for part in file.parent.iterdir():
        part.unlink()


def folder_removed(file: Path) -> None:
    shutil.rmtree(file.parent)


def copied(file: Path) -> None:
    shutil.copy(file, file.with_name("copy.db"))
    file.with_name("copy.db").replace(file)


def relinked(file: Path) -> None:
    other = file.parent.parent / "other.db"
    shutil.copy(file, other)
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize("happens", [moved, removed, folder_removed, copied, relinked])
def test_nothing_is_written_to_a_database_whose_file_is_gone_or_another(
    happens: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "study.db"
    database = open_database(f"sqlite:///{file}")
    records = store_study(database, "held", scored, trials=3)
    happens(file)
    with pytest.raises(DatabaseReplacedError, match="while it was in use"), database.exclusive():
        pass
    for write in (lambda: set_priority(records, 1), lambda: database.storage.create_new_trial(1)):
        with pytest.raises(DatabaseReplacedError, match="nothing more is written"):
            write()
    assert not file.with_name("study.db.lock").exists() or happens in {moved, copied, relinked}
    database.close()


def test_a_database_reached_through_a_link_is_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    database = open_database(f"sqlite:///{tmp_path}/link/study.db")
    records = store_study(database, "held", scored, trials=3)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "real")  # made anew, and it leads where it led
    set_priority(records, 1)
    with database.exclusive():
        pass
    database.close()


# ------------------------------------------------------------------------------------ whole commands


def started(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "optimizer.cli", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_doctor_says_whom_it_waits_for_and_ends_in_the_end(database: Database, url: str, tmp_path: Path) -> None:
    with holder(url) as child:
        doctor = started(
            tmp_path, "study", "doctor", "--storage", url, "--artifacts", "files", MERGETUNE_PATIENCE_SECONDS="7"
        )
        out, _ = doctor.communicate(timeout=120)
    assert doctor.returncode == 3, out
    notice, error = out.strip().splitlines()
    assert notice.startswith("waiting for ")
    assert f"process {child.pid} on " in notice
    assert error.startswith("error: the lock of ")


@pytest.mark.slow
def test_what_is_no_json_in_a_row_is_named_and_hides_no_other_study(tmp_path: Path) -> None:
    database = open_database(url := f"sqlite:///{tmp_path}/study.db")
    for name in ("good", "broken", "odd", "strange"):
        store_study(database, name, scored, trials=3)
    with database.engine.begin() as connection:
        for table, column, value, where in (
            ("studies", "software", "{oops", "name = 'broken'"),
            ("trials", "objectives", "[1, 2", "study_id = 3 AND number = 1"),
            ("trials", "gains", json.dumps({"objective": 5}), "study_id = 4 AND number = 1"),
        ):
            connection.exec_driver_sql(f"UPDATE mergetune_{table} SET {column} = ? WHERE {where}", (value,))
    database.close()
    listed = started(tmp_path, "study", "list", "--storage", url, COLUMNS="300")
    out, _ = listed.communicate(timeout=120)
    assert listed.returncode == 0, out
    rows = {name: next(row for row in out.splitlines() if f" {name} " in row) for name in ("broken", "odd", "strange")}
    assert "where JSON was expected" in rows["broken"]
    assert "where JSON was expected" in rows["odd"]
    assert "trial 1 is malformed" in rows["strange"]
    assert " 3/" in next(row for row in out.splitlines() if " good " in row)
    for name in rows:
        shown = started(tmp_path, "study", "show", name, "--storage", url)
        out, _ = shown.communicate(timeout=120)
        assert (shown.returncode, out.count("\n")) == (2, 1), out
    doctor = started(tmp_path, "study", "doctor", "--storage", url)
    out, _ = doctor.communicate(timeout=120)
    assert doctor.returncode == 1, out
    assert all(f"unreadable study, {name}" in out for name in rows), out


@pytest.mark.parametrize("copy", [False, True])
def test_an_artifact_folder_is_another_one_where_nothing_is_in_it_that_was_there(copy: bool, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "files")
    store.make()
    store.write("studies/key/0-w/sheet.jpg", b"sheet")
    (tmp_path / "files").rename(tmp_path / "elsewhere")
    if copy:
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "files")
        store.write("studies/key/1-w/sheet.jpg", b"sheet")
    else:
        (tmp_path / "files" / "studies").mkdir(parents=True)
        with pytest.raises(ArtifactsReplacedError, match="nothing more is written"):
            store.write("studies/key/1-w/sheet.jpg", b"sheet")
