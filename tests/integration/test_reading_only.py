"""Commands that only look: they need no write access, and leave a database and its folder as they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from command_line import Call, caller, enter
from older_databases import make_older_database
from real_databases import new_postgresql_url
from stored_study import store_study

from optimizer.outcome.other_study import other_study
from studies.errors import DatabaseError
from studies.records.database import current_schema, open_database, open_to_read
from studies.records.read_only import connect_to_read
from studies.records.stored_studies import list_studies
from studies.records.tables import VERSION_TABLE
from studies.spec.warm_start import WarmStartSettings
from studies.system.database_url import redacted, storage_argument

ROOT = Path(__file__).parents[2]
LOOKING = (
    ("study", "list"),
    ("study", "show", "first", "--trials"),
    ("study", "importance", "first", "--json"),
    ("study", "importance", "first", "--plot", "PLOT.png"),
    ("study", "compare", "first", "second"),
    ("study", "doctor", "--json"),
    ("study", "prune-artifacts", "first", "--dry-run"),
    ("export", "first", "--trial", "3", "--recipe", "RECIPE.yaml"),
)
SEVERAL = """
import json, os, sys
from optimizer.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["mergetune", *words]
    try:
        main.run()
    except SystemExit as left:
        codes.append(left.code)
print("\\n" + json.dumps(codes))
"""
SECOND_ROW = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO numbers VALUES (2)")
connection.commit()
if sys.argv[2] == "killed":
    os._exit(0)
print("stored", flush=True)
sys.stdin.readline()
"""
SHOW_ROWS = """
import sys
from pathlib import Path
from studies.records.read_only import connect_to_read
print(connect_to_read(Path(sys.argv[1])).execute("SELECT n FROM numbers ORDER BY n").fetchall())
"""


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name -> content and time of every file; of SQLite's shared memory, which readers mark, only that it is there."""
    return {
        str(file.relative_to(folder)): (b"" if file.name.endswith("-shm") else file.read_bytes(), _time(file))
        for file in (folder, *sorted(folder.rglob("*")))
        if file.is_file()
    } | {"the folder": (b"", folder.stat().st_mtime_ns)}


def _time(file: Path) -> int:
    return 0 if file.name.endswith("-shm") else file.stat().st_mtime_ns


def read_only_words(kind: str, folder: Path) -> list[str]:
    """The beginning of a command that sees `folder` read-only: by its rights, or as a mount."""
    if kind == "mount":
        script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
        words = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder)]
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        return words
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() != 0:
        return []
    words = ["setpriv", "--bounding-set=-dac_override"]  # or rights would mean nothing to root
    if shutil.which(words[0]) is None:
        pytest.skip("root may write everywhere here")
    return words


def run_read_only(kind: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*read_only_words(kind, folder), sys.executable, *words],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a database of two studies, closed."""
    folder = tmp_path / "studies"
    folder.mkdir()
    fill(f"sqlite:///{folder}/study.db")
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def fill(url: str) -> None:
    database = open_database(url)
    for seed, name in enumerate(("first", "second")):
        store_study(database, name, score, trials=12, seed=seed)
    database.close()


def score(params: Mapping[str, float]) -> Mapping[str, tuple[float, ...]]:
    return {"sharpness": (sum(params.values()),) * 4, "contrast": (1.0,) * 4}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize("kind", [pytest.param("rights", marks=pytest.mark.slow), "mount"])
def test_every_command_that_looks_works_where_nothing_can_be_written(kind: str, folder: Path) -> None:
    (folder / "study.db.lock").unlink()
    before = state_of(folder)
    commands = [[*words, "--storage", str(folder / "study.db")] for words in LOOKING]
    done = run_read_only(kind, folder, "-c", SEVERAL, json.dumps(commands))
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(LOOKING), done.stdout + done.stderr
    assert (folder.parent / "PLOT.png").exists()
    assert (folder.parent / "RECIPE.yaml").exists()
    assert state_of(folder) == before


@pytest.mark.slow
def test_a_read_only_dashboard_shows_what_cannot_be_written(folder: Path) -> None:
    before = state_of(folder)
    words = ["-m", "optimizer.cli", "dashboard", "--read-only", "--port", "0", "--storage", str(folder / "study.db")]
    with subprocess.Popen(
        [*read_only_words("rights", folder), sys.executable, *words],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": f"{ROOT}", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert found is not None
            with urllib.request.urlopen(f"{found[0]}/api/studies", timeout=60) as answer:
                shown = json.loads(answer.read())["study_summaries"]
            assert [study["study_name"] for study in shown] == ["first", "second"]
            with urllib.request.urlopen(f"{found[0]}/api/studies/1", timeout=60) as answer:
                assert len(json.loads(answer.read())["trials"]) == 12
            assert state_of(folder) == before
        finally:
            server.terminate()
    assert state_of(folder) == before


def test_looking_leaves_a_folder_that_could_be_written_as_it_was(folder: Path, call: Call) -> None:
    before = state_of(folder)
    for words in LOOKING:
        call(*words, "--storage", folder / "study.db")
    assert state_of(folder) == before


@pytest.mark.parametrize("left", ["closed", "open", "killed", "log alone", "no log"])
@pytest.mark.parametrize("kind", [pytest.param("rights", marks=pytest.mark.slow), "mount"])
def test_what_was_stored_last_is_read_in_whatever_state_a_file_was_left(kind: str, left: str, tmp_path: Path) -> None:
    folder = tmp_path / "left"
    folder.mkdir()
    file = folder / "study.db"
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA journal_mode={'DELETE' if left == 'no log' else 'WAL'}")
        connection.execute("CREATE TABLE numbers (n)")
        connection.execute("INSERT INTO numbers VALUES (1)")
    connection.close()
    words = [sys.executable, "-c", SECOND_ROW, str(file), "killed" if left in {"killed", "log alone"} else ""]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == ("" if writer.args[-1] == "killed" else "stored\n")  # type: ignore[index]
        if left != "open":
            writer.communicate("leave\n")
        if left == "log alone":
            (folder / "study.db-shm").unlink()
        before = state_of(folder)
        assert connect_to_read(file).execute("SELECT count(*) FROM numbers").fetchone() == (2,)
        assert state_of(folder) == before
        done = run_read_only(kind, folder, "-c", SHOW_ROWS, str(file))
        assert done.stdout == "[(1,), (2,)]\n", done.stderr
        folder.chmod(0o755)
        if left == "open":
            writer.communicate("leave\n")


def test_a_file_that_changes_while_it_is_read_without_a_lock_is_told(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/study.db").close()
    database = open_to_read(f"sqlite:///{tmp_path}/study.db")

    def read_meanwhile() -> None:
        with database.engine.connect() as connection:
            connection.execute(sa.text("SELECT count(*) FROM mergetune_studies"))
            with sqlite3.connect(tmp_path / "study.db") as other:
                other.execute("INSERT INTO mergetune_workers (id, host, pid, seen_at) VALUES ('w', 'h', 1, 0)")
            other.close()  # takes the log into the file

    with pytest.raises(sa.exc.OperationalError, match="changed while it was read"):
        read_meanwhile()
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id FROM mergetune_workers")).scalar() == "w"
    database.close()


def test_a_reader_sees_what_workers_store_after_it_has_opened_the_file(tmp_path: Path) -> None:
    """As `dashboard --read-only` does for days."""
    url = f"sqlite:///{tmp_path}/study.db"
    open_database(url).close()
    reader = open_to_read(url)
    assert list_studies(reader) == []
    fill(url)
    assert [records.study.name for records in list_studies(reader)] == ["first", "second"]
    reader.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_can_be_written_through_a_database_opened_to_be_read(kind: str, tmp_path: Path) -> None:
    url = new_postgresql_url() if kind == "postgresql" else f"sqlite:///{tmp_path}/study.db"
    open_database(url).close()
    reader = open_to_read(url)
    with pytest.raises(sa.exc.OperationalError, match=r"read-?only"), reader.write() as connection:
        connection.execute(sa.text("INSERT INTO mergetune_workers (id, host, pid, seen_at) VALUES ('w', 'h', 1, 0)"))
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.create_study(storage=reader.storage, study_name="new")
    reader.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_schema_is_said_in_one_line_and_left_alone_until_it_is_migrated(
    kind: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_postgresql_url() if kind == "postgresql" else f"sqlite:///{tmp_path}/study.db"
    make_older_database(url, "0001")
    refused = call("study", "list", "--storage", url, code=2).err
    assert "older mergetune (0001" in refused
    first = refused[refused.index("`") + 1 : refused.rindex("`")]
    assert first == f"mergetune study migrate --storage {storage_argument(url)}"
    assert refused.count("\n") == 1
    assert revision_of(url) == "0001"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = call(*shlex.split(first)[1:], code=0).out
    assert told == f"the study database {redacted(url)} was brought from schema 0001 to {revision_of(url)}\n"
    assert revision_of(url) != "0001"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    call("study", "list", "--storage", url, code=0)


def test_migrate_says_whether_it_made_the_database(tmp_path: Path, call: Call) -> None:
    assert "mergetune.db was made" in call("study", "migrate", code=0).out
    again = call("study", "migrate", code=0).out
    assert (
        again == f"the study database {tmp_path}/mergetune.db has this version's schema already ({current_schema()})\n"
    )
    url = new_postgresql_url()
    assert "was made" in call("study", "migrate", "--storage", url, code=0).out


def test_a_warm_start_from_an_older_database_names_that_one(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/new.db").close()
    make_older_database(f"sqlite:///{tmp_path}/old.db", "0001")
    settings = WarmStartSettings(study="old", storage=f"sqlite:///{tmp_path}/old.db")
    with (
        pytest.raises(DatabaseError, match=r"^warm_start: .* only read here") as refused,
        other_study(settings, f"sqlite:///{tmp_path}/new.db", None),
    ):
        pass
    assert f"`mergetune study migrate --storage {tmp_path}/old.db`" in str(refused.value)


def revision_of(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = str(connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one())
    engine.dispose()
    return found


def test_a_database_without_a_study_is_told_and_gets_no_tables(tmp_path: Path) -> None:
    url = new_postgresql_url()
    with pytest.raises(DatabaseError, match="no study is in the database"):
        open_to_read(url)
    engine = sa.create_engine(url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    (tmp_path / "study.db").touch()
    with pytest.raises(DatabaseError, match="no study is in the database"):
        open_to_read(f"sqlite:///{tmp_path}/study.db")
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("study.db", 0)]


@pytest.mark.parametrize("kind", ["rights", pytest.param("mount", marks=pytest.mark.slow)])
def test_a_command_that_writes_says_what_is_read_only(kind: str, folder: Path) -> None:
    words = ["study", "stop", "first", "--storage", str(folder / "study.db")]
    done = run_read_only(kind, folder, "-m", "optimizer.cli", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "read-only" in done.stderr
