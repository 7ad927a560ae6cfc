"""The study database on real SQLite files and a real PostgreSQL: schema, opening, refusals, mutual exclusion."""

from __future__ import annotations

import gc
import select
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from child_processes import child_process
from older_databases import make_older_database
from real_databases import new_guarded_postgresql_url, new_postgresql_url

from studies.errors import DatabaseError, StudyError
from studies.records.database import PASSWORD_FILE_VARIABLE, Database, open_database
from studies.records.failures import FailureKind
from studies.records.tables import VERSION_TABLE, metadata
from studies.system.database_url import database_file, redacted

OURS = set(metadata.tables) | {VERSION_TABLE}
PASSWORD = "s3cret-pass"
OLD_TRIAL = {  # a row that every version has understood
    "study_id": 1,
    "number": 0,
    "origin": "gp",
    "recipe": "",
    "recipe_digest": "",
    "worker_id": "w",
    "attempt": 1,
    "state": "complete",
    "reason": None,
    "rendered": 0,
    "started_at": 0.0,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that is not there yet (SQLite) or is empty (PostgreSQL)."""
    return new_postgresql_url() if request.param == "postgresql" else f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


def tables_of(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


@contextmanager
def changing(url: str) -> Iterator[sa.Connection]:
    """As another program would, past our code."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def execute(url: str, statement: str) -> None:
    with changing(url) as connection:
        connection.execute(sa.text(statement))


def refusal(url: str, *, create: bool = True) -> str:
    """The message a database is refused with: always one line, never with the password."""
    with pytest.raises(DatabaseError) as caught:
        open_database(url, create=create)
    message = str(caught.value)
    assert "\n" not in message
    assert PASSWORD not in message
    return message


# ------------------------------------------------------------------------------------------- schema


def test_our_tables_stand_beside_optunas_with_both_version_tables(database: Database) -> None:
    tables = tables_of(database)
    assert tables >= OURS
    assert {"studies", "trials", "trial_params", "alembic_version"} <= tables
    with database.engine.connect() as connection:
        ours = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
        optunas = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    assert len(ours) == len(optunas) == 1
    assert ours != optunas


def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    def ours_only(_thing: Any, name: str | None, kind: str, reflected: bool, _other: Any) -> bool:
        return not (kind == "table" and reflected and name not in metadata.tables)

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_object": ours_only, "compare_type": True, "version_table": VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []


def make_older_study(url: str, revision: str) -> None:
    """A database of an older version, with study 1."""
    make_older_database(url, revision)
    execute(
        url,
        "INSERT INTO mergetune_studies (id, name, key, spec, suite_digest, software, fingerprints, created_at, status, "
        "priority) VALUES (1, 'old', 'k', '', '', '{}', '[]', 0, 'active', 0)",
    )


def test_limits_of_batches_that_an_older_version_stored_are_the_unets(url: str) -> None:
    make_older_study(url, "0001")
    execute(url, "INSERT INTO mergetune_batch_limits VALUES (1, 'card', 64, 128, 2)")
    database = open_database(url)
    query = "SELECT study_id, device, component, width, height, images FROM mergetune_batch_limits"
    with database.engine.connect() as connection:
        assert connection.execute(sa.text(query)).all() == [(1, "card", "unet", 64, 128, 2)]
    database.close()


REASONS: dict[str | None, FailureKind] = {  # as versions before 0003 stored them
    "degenerate: 3 of 8 images are broken: item 0 (black)": "degenerate",
    "out of memory: DefaultCPUAllocator: can't allocate memory": "out_of_memory",
    "out of memory denoising a single image of 512x512: CUDA out of memory": "out_of_memory",
    "out of memory in scorer clip: CUDA out of memory": "out_of_memory",
    "scorer clip failed at item 0: ZeroDivisionError: no images today": "scorer",
    "scorer clip gave a value that is not a finite number": "scorer",
    "4 workers died while they worked on it: look for what killed them (out of memory?)": "worker_died",
    "ended by another program: FAIL for Optuna while its worker was dead": "other",
    None: "other",
}


def test_failures_that_an_older_version_stored_get_the_kind_of_their_reason(url: str) -> None:
    make_older_study(url, "0002")
    with changing(url) as connection:
        older = sa.table("mergetune_trials", *map(sa.column, OLD_TRIAL))
        rows = [
            {**OLD_TRIAL, "number": number, "state": "failed", "reason": reason}
            for number, reason in enumerate(REASONS)
        ]
        connection.execute(older.insert(), [*rows, {**OLD_TRIAL, "number": len(rows), "reason": None}])
    database = open_database(url)
    with database.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT failure FROM mergetune_trials ORDER BY number")).scalars().all()
    assert found == [*REASONS.values(), None]
    database.close()


def test_batch_limits_that_an_older_version_described_with_the_machine_are_the_trials_own(url: str) -> None:
    machines = [
        {"device": "card", "batches": "512x512 4, vae 1024x768 1", "threads": "2"},
        {"device": "card", "batches": "512x512 4"},  # of a version that had limits of the U-Net alone
        {"device": "card"},
        None,
    ]
    make_older_study(url, "0003")
    with changing(url) as connection:
        older = sa.table("mergetune_trials", *map(sa.column, OLD_TRIAL), sa.column("machine", sa.JSON()))
        rows = [{**OLD_TRIAL, "number": number, "machine": machine} for number, machine in enumerate(machines)]
        connection.execute(older.insert(), rows)
    database = open_database(url)
    trials = metadata.tables["mergetune_trials"].c
    with database.engine.connect() as connection:
        found = connection.execute(sa.select(trials.machine, trials.batch_limits).order_by(trials.number)).all()
    assert found == [
        ({"device": "card", "threads": "2"}, [["unet", 512, 512, 4], ["vae", 1024, 768, 1]]),
        ({"device": "card"}, [["unet", 512, 512, 4]]),
        ({"device": "card"}, None),
        (None, None),
    ]
    database.close()


def test_opening_again_changes_nothing_and_keeps_what_is_there(url: str, database: Database) -> None:
    optuna.create_study(storage=database.storage, study_name="kept")
    before = tables_of(database)
    again = open_database(url, create=False)
    assert tables_of(again) == before
    assert optuna.get_all_study_names(storage=again.storage) == ["kept"]
    again.close()


def test_a_database_that_optuna_made_gets_our_tables(url: str) -> None:
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(storage=storage, study_name="theirs")
    storage.engine.dispose()
    database = open_database(url)
    assert tables_of(database) >= OURS
    assert optuna.get_all_study_names(storage=database.storage) == ["theirs"]
    database.close()


def test_many_may_open_a_new_database_at_once(url: str) -> None:
    """As the workers of a study do when they are started together."""
    count = 6
    gate = threading.Barrier(count)

    def open_with_others(_index: int) -> set[str]:
        gate.wait()
        opened = open_database(url)
        tables = tables_of(opened)
        opened.close()
        return tables

    with ThreadPoolExecutor(count) as pool:
        for tables in pool.map(open_with_others, range(count)):
            assert tables >= OURS


def test_a_migration_that_fails_leaves_none_of_our_tables(url: str) -> None:
    storage = optuna.storages.RDBStorage(url)
    storage.engine.dispose()
    execute(url, "CREATE TABLE mergetune_renders (other INTEGER)")
    message = refusal(url)
    assert "mergetune_renders" in message
    execute(url, "DROP TABLE mergetune_renders")
    database = open_database(url)  # would fail on a half-made schema
    assert tables_of(database) >= OURS
    database.close()


def test_a_database_of_a_newer_mergetune_is_refused_and_left_alone(url: str) -> None:
    open_database(url).close()
    execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    message = refusal(url)
    assert "newer mergetune" in message
    assert "9999" in message
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "9999"
    engine.dispose()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_database_of_a_newer_optuna_is_refused(url: str) -> None:
    open_database(url).close()
    execute(url, "UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    assert "optuna" in refusal(url).lower()
    gc.collect()  # Optuna's storage, which refused to be made, left its connection open


# ------------------------------------------------------------------------------------------- SQLite


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/study.db")
    yield opened
    opened.close()


def test_sqlite_writes_ahead_and_minds_foreign_keys_on_every_connection(sqlite: Database) -> None:
    with sqlite.engine.connect() as one, sqlite.engine.connect() as other:
        for connection in (one, other):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    workers = metadata.tables["mergetune_workers"]

    def write_and_fail() -> None:
        with database.write() as connection:
            connection.execute(workers.insert().values(id="w", host="h", pid=1, seen_at=0.0))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_and_fail()
    with database.engine.connect() as connection:
        assert connection.execute(sa.select(workers)).all() == []


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    database = open_database(f"sqlite:///{tmp_path}/study.db")
    assert tables_of(database) >= OURS
    database.close()


def test_a_missing_file_is_made_only_when_asked_for(tmp_path: Path) -> None:
    message = refusal(f"sqlite:///{tmp_path}/absent.db", create=False)
    assert "no study database" in message
    assert "absent.db" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/absent does not exist" in refusal(f"sqlite:///{tmp_path}/absent/study.db")


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert "is a folder" in refusal(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights" * 1000)
    assert "is not a study database" in refusal(f"sqlite:///{path}")
    assert path.read_bytes() == b"weights" * 1000
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    assert "cannot be used" in refusal(f"sqlite:///{path}")


# ---------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "://",
        "sqlite",
        f"nonsense://user:{PASSWORD}@host/name",
        f"mysql://user:{PASSWORD}@host/name",
        f"postgresql+psycopg://user:{PASSWORD}@host:port/name",
        f"postgresql psycopg://user:{PASSWORD}@host/name",
    ],
)
def test_what_is_no_url_of_ours_is_refused_with_an_example(url: str) -> None:
    assert "sqlite:///path/to/file.db" in refusal(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    assert "outlives the program" in refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/name",
        f"postgresql+psycopg://127.0.0.1:1/name?user=me&password={PASSWORD}",
        f"postgresql+psycopg://user:{PASSWORD}@/name?host=/nonexistent",
        f"postgresql+nodriver://user:{PASSWORD}@127.0.0.1:1/name",
    ],
)
def test_a_server_that_cannot_be_reached_is_refused(url: str) -> None:
    message = refusal(url)
    assert "cannot be used" in message
    assert "127.0.0.1" in message or "nonexistent" in message


def test_the_redacted_url_says_everything_but_the_password() -> None:
    assert redacted(f"postgresql+psycopg://me:{PASSWORD}@db.lan:5433/merges") == (
        "postgresql+psycopg://me:***@db.lan:5433/merges"
    )


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///study.db", Path("study.db")),
        ("sqlite:////data/study.db", Path("/data/study.db")),
        ("postgresql+psycopg://host/name", None),
        ("postgresql://host/name", None),
    ],
)
def test_the_file_of_a_url(url: str, file: Path | None) -> None:
    assert database_file(url) == file


# -------------------------------------------------------------------------------------- one at a time

CHILD = """
import sys
from studies.records.database import open_database
database = open_database(sys.argv[1], create=False)
print("open", flush=True)
sys.stdin.readline()
with database.exclusive():
    print("in", flush=True)
    sys.stdin.readline()
"""


def other_process(url: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that has the database open; each line sent to it lets it take its next step."""
    return child_process(CHILD, url, says="open")


def send(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def said(child: subprocess.Popen[str], seconds: float) -> str:
    """The child's next line, or nothing."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    return child.stdout.readline() if ready else ""


def test_only_one_process_takes_a_trial_at_a_time(url: str, database: Database) -> None:
    with other_process(url) as child:
        with database.exclusive():
            send(child)
            assert said(child, 0.7) == ""
        assert said(child, 60) == "in\n"
        entered = threading.Event()

        def enter() -> None:
            with database.exclusive():
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.7)
        child.kill()  # the lock goes with its holder
        waiting.join(60)
        assert entered.is_set()


def test_an_error_inside_gives_the_lock_back(database: Database) -> None:
    with pytest.raises(RuntimeError, match="inside"), database.exclusive():
        raise RuntimeError("inside")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_take, database).result(60)


def _take(database: Database) -> bool:
    with database.exclusive():
        return True


# -------------------------------------------------------------------------------- password in a file


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a server's database that needs PASSWORD; the environment names the file that holds it."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv(PASSWORD_FILE_VARIABLE, str(tmp_path / "password"))
    return new_guarded_postgresql_url(PASSWORD)


def test_a_servers_password_may_be_in_a_file(guarded: str) -> None:
    database = open_database(guarded)
    assert tables_of(database) >= OURS
    with database.exclusive(), database.write() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    assert PASSWORD not in database.url
    assert PASSWORD not in repr(database)
    database.close()


def test_a_password_in_the_url_is_the_one_that_is_used(guarded: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("another\n")
    open_database(sa.make_url(guarded).set(password=PASSWORD).render_as_string(hide_password=False)).close()


@pytest.mark.parametrize("content", ["wrong\n", "\n", None])
def test_a_password_file_that_does_not_open_the_database_is_one_line(
    content: str | None, guarded: str, tmp_path: Path
) -> None:
    if content is None:
        (tmp_path / "password").unlink()
    else:
        (tmp_path / "password").write_text(content)
    with pytest.raises(StudyError) as caught:
        open_database(guarded)
    assert "\n" not in str(caught.value)
    assert "password" in str(caught.value)


def test_a_sqlite_file_needs_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_FILE_VARIABLE, str(tmp_path / "absent"))
    open_database(f"sqlite:///{tmp_path}/study.db").close()
