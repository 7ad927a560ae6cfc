"""Paths of databases and artifacts with characters that mean something in a URL, a shell or a format string."""

from __future__ import annotations

import ast
import json
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from command_line import Call, enter, run_program
from demo_study import write_spec
from hypothesis import given
from hypothesis import strategies as st
from object_store import BUCKET, object_store
from slow_cases import first_fast
from stored_study import store_study

import studies
from optimizer.cli.common import storage_url
from optimizer.cli.views.progress import ProgressReporter
from optimizer.cli.workers.local_workers import options_as_variables
from optimizer.observe.events import StudyPaused
from optimizer.trial.objective import Objective
from studies.errors import ArtifactError, SchemaChangedError, SpecError, StudyExistsError
from studies.files.artifacts import Artifacts, default_folder
from studies.records import stored_trials, tables
from studies.records.database import open_database, open_to_read
from studies.records.finals import Final, Finalist, store_final
from studies.records.stored_studies import require_new
from studies.records.study_records import StudyRecords
from studies.records.tables import VERSION_TABLE
from studies.records.values import Gain
from studies.spec.study import StudySpec, parse_spec
from studies.system.advice import storage_option
from studies.system.database_url import canonical_url, complete_url, database_file, redacted, same_database, sqlite_url

NAMES = (
    "100%.db",
    "a%20b.db",
    "what?.db",
    "issue #7.db",
    "me@home:1.db",
    "{SCHEMA_VERSION}.db",
    "{0}.db",
    "back\\slash.db",
    "Füchse und 狐.db",
    'it\'s & "so";$x.db',
    "+plus&and=.db",
    "~tilde.db",
)
SPEC = """
    study: second
    parents: [/models/a.safetensors, /models/b.safetensors]
    suite: {prompts: [a cat]}
    scorers: {sharpness: }
"""


def score(params: Mapping[str, float]) -> Mapping[str, tuple[float, ...]]:
    return {"sharpness": (sum(params.values()),) * 4, "contrast": (1.0,) * 4}


def spec_with(storage: str, base: Path) -> StudySpec:
    return parse_spec(f"{SPEC}    warm_start: {{study: first, storage: {json.dumps(storage)}}}\n", base_dir=base)


@pytest.mark.parametrize("name", first_fast(1, NAMES))
def test_a_database_is_the_file_that_was_named_in_every_command(name: str, tmp_path: Path, call: Call) -> None:
    for storage in (Path(name), tmp_path / name):
        url = storage_url(str(storage))
        database = open_database(url)
        store_study(database, f"of {len(storage.parts)} parts", score, trials=3)
        database.close()
        made = {file.name for file in tmp_path.iterdir()}
        assert made == {name, f"{name}.lock"}
        for words in (["list"], ["show", f"of {len(storage.parts)} parts"], ["doctor"]):
            call("study", *words, "--storage", storage, code=0)
            call("study", *words, "--storage", url, code=0)
        assert {file.name for file in tmp_path.iterdir()} == made
    assert default_folder(url) == tmp_path / f"{Path(name).stem}-artifacts"


@pytest.mark.parametrize("name", first_fast(4, NAMES))
def test_the_printed_command_leads_back_to_the_database(name: str, tmp_path: Path, call: Call) -> None:
    open_database(storage_url(name)).close()
    words = shlex.split(storage_option(storage_url(name)))
    assert words[0] == "--storage"
    call("study", "list", *words, code=0)
    assert database_file(storage_url(words[1])) == tmp_path / name


def test_a_command_that_another_default_would_mislead_names_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    assert storage_option(storage_url("mergetune.db")) == ""
    monkeypatch.setenv("MERGETUNE_STORAGE", "other.db")
    assert storage_option(storage_url("mergetune.db")) == f" --storage {tmp_path}/mergetune.db"
    assert storage_option(storage_url("other.db")) == ""


def finalist(records: StudyRecords, number: int) -> Finalist:
    trial = stored_trials.load_trials(records)[number]
    gain = Gain(value=0.5, low=None, high=None, parent="A")
    gains = {} if trial.origin.parent else dict.fromkeys(("objective", "sharpness", "contrast"), gain)
    return Finalist(number=number, origin=trial.origin, in_sample=gains, held_out=gains, chosen=bool(gains))


def test_whatever_command_is_advised_names_the_database(
    tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    database = open_database(storage_url("other place.db"))
    whole = store_study(database, "whole", score, trials=3)
    store_study(database, "empty", score, trials=2, failed=(0, 1))
    with database.write() as connection:  # for the doctor: a worker that was never there
        connection.execute(tables.workers.insert().values(id="w", host="h", pid=1, seen_at=0.0))
    option = storage_option(database.url)
    for words, advice in (
        (("export", "whole", "--trial", "99"), f'see `mergetune study show "whole"{option} --trials`'),
        (("export", "empty"), f'see `mergetune study show "empty"{option}`'),
        (("study", "doctor"), f"Repair it with: mergetune study doctor --mend{option}"),
    ):
        outcome = call(*words, "--storage", "other place.db")
        assert advice in outcome.out + outcome.err
    store_final(whole, Final(suite_digest="", complete_trials=1, finalists=(finalist(whole, 0), finalist(whole, 2))))
    outdated = call("study", "show", "whole", "--storage", "other place.db", code=0).out
    assert f'hold it again with: mergetune study finish "whole"{option}\n' in outdated
    with ProgressReporter(whole, Objective.of_study(whole.study), threading.Event()) as people:
        people.report(StudyPaused())
    assert f'it goes on with: mergetune study resume "whole" --detach{option}\n' in capsys.readouterr().out
    with pytest.raises(StudyExistsError, match=re.escape(f'`mergetune study resume "whole"{option}`')):
        require_new(database, "whole")
    with database.write() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
    with pytest.raises(SchemaChangedError, match=re.escape(f"`mergetune study resume STUDY{option}`")):
        database.write().__enter__()
    assert f"`mergetune study migrate{option}`" in call("study", "list", "--storage", "other place.db", code=2).err
    database.close()


def test_no_message_writes_such_a_command_by_itself() -> None:
    needing = re.compile(r"mergetune (study (?!check)\w|export |dashboard )")
    written = [
        (path.name, text)
        for package in ("basics", "optimizer", "scorers", "search_spaces", "studies")
        for path in (Path(studies.__file__).parents[1] / package).rglob("*.py")
        for text in texts_of(ast.parse(path.read_text()))
        if needing.search(text)
    ]
    assert sorted(name for name, _ in written) == [
        "database.py",  # as the owner, whom no URL names
        *("kinds.py",) * 2,  # what a scorer is said to be, in lists that know no database
        "page.py",  # of the report, which goes to people without the database
        "personal.py",  # scorers know no database
        *("personal_head.py",) * 2,
        "spec_text.py",  # of a first spec, which has no database yet
        "suggestions.py",  # it begins the study of a spec
        *("verdict.py",) * 2,  # of the report too
    ]


def texts_of(tree: ast.Module) -> Iterator[str]:
    """Every text of a module but its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("name", first_fast(4, NAMES))
def test_another_process_in_another_folder_finds_the_same_database(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    url = storage_url(f"sqlite:///{name.replace('%', '%25').replace('?', '%3F')}")
    open_database(url).close()
    told = options_as_variables(url, None, tmp_path)["MERGETUNE_STORAGE"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert database_file(storage_url(told)) == tmp_path / name
    storage = optuna.storages.RDBStorage(canonical_url(told))
    assert optuna.get_all_study_names(storage=storage) == []
    storage.engine.dispose()


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_a_path_goes_through_a_url_and_back(name: str) -> None:
    file = Path("/data") / f"{name}.db"
    url = sqlite_url(file)
    assert database_file(url) == file
    assert complete_url(url) == canonical_url(url) == url
    assert redacted(url) == str(file)
    assert "{" not in url


def test_only_a_tilde_alone_stands_for_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert database_file(storage_url("~root/a.db")) == tmp_path / "~root" / "a.db"
    assert Artifacts.existing("sqlite:///x.db", "~root/art").location == str(tmp_path / "~root" / "art")
    assert database_file(storage_url("~/a.db")) == database_file(storage_url("sqlite:///~/a.db")) == tmp_path / "a.db"
    assert Artifacts.existing("sqlite:///x.db", "~/art").location == str(tmp_path / "art")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///what?.db", "%3F"),
        ("sqlite:///study.db?timeout=5", "%3F"),
        ("sqlite:///file:study.db?mode=ro&uri=true", "%3F"),
        ("sqlite://study.db", "three slashes"),
        ("sqlite://me@study.db/x", "three slashes"),
        ("sqlite+aiosqlite:///study.db", "is not a database URL"),
    ],
)
def test_a_url_whose_file_could_be_mistaken_is_refused(url: str, told: str, tmp_path: Path, call: Call) -> None:
    said = call("study", "list", "--storage", url, code=2).err
    assert told in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_text_is_one_line(tmp_path: Path, call: Call) -> None:
    assert "UTF-8" in call("study", "list", "--storage", "\udcff.db", code=2).err


def test_two_names_of_one_database_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "50% off.db").touch()
    (tmp_path / "link.db").symlink_to("50% off.db")
    assert same_database("sqlite:///link.db", sqlite_url(tmp_path / "50% off.db"))
    assert not same_database("sqlite:///link.db", "sqlite:///other.db")
    assert not same_database("sqlite:///link.db", "postgresql+psycopg://host/name")
    assert same_database("postgresql+psycopg://me:secret@host/name", "postgresql+psycopg://me@host/name")


@pytest.mark.parametrize("name", NAMES[:-1])  # a spec's path that begins with a tilde is one below a home folder
def test_a_warm_start_names_a_file_beside_its_spec(name: str, tmp_path: Path) -> None:
    settings = spec_with(f"./{name}", tmp_path).warm_start
    assert settings is not None
    assert settings.storage is not None
    assert database_file(settings.storage) == tmp_path / name
    stored = spec_with(redacted(settings.storage), Path("/")).warm_start
    assert stored == settings


def test_a_warm_start_whose_url_names_no_file_is_the_specs_fault(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="%3F"):
        spec_with("sqlite:///what?.db", tmp_path)


@pytest.mark.parametrize("name", ["50% off", "~is it? #1", "a@b:c {x}", "Füchse 狐", "back\\slash"])
def test_artifacts_are_kept_in_the_folder_that_was_named(name: str, tmp_path: Path) -> None:
    files = Artifacts.beside("sqlite:///x.db", str(tmp_path / name)).of_trial("key", 3, "worker")
    files.save_features({})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / files.folder).is_dir()
    assert len(files.files()) == 1


@pytest.mark.parametrize("place", ["gs://bucket/x", "file:///tmp/x", "S3://bucket/x", "https://host/x"])
def test_a_place_of_another_kind_is_no_folder(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="s3://bucket/prefix"):
        Artifacts.beside("sqlite:///x.db", place)
    assert list(tmp_path.iterdir()) == []


def test_a_buckets_keys_keep_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store() as objects:
        for name, value in objects.environment.items():
            monkeypatch.setenv(name, value)
        for prefix in ("50% off", "a%20b", "issue #7", "a+b & c=d", "Füchse 狐", "back\\slash", "{x}@y:1"):
            files = Artifacts.beside("sqlite:///x.db", f"s3://{BUCKET}/{prefix}").of_trial("key", 3, "worker")
            files.save_features({})
            assert len(files.files()) == 1
            files.load_features()
            listed = objects.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
            assert [row["Key"] for row in listed["Contents"]] == [f"{prefix}/{files.folder}/features.npz"]
            files.remove()
            assert files.files() == frozenset()


@pytest.mark.slow
def test_the_command_after_a_check_can_be_copied(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "50% of it's.yaml", study="copied")
    said = run_program(tmp_path, "study", "check", spec.name, "--storage", "what?.db")
    words = shlex.split(said.split("Start it with: mergetune ")[1].splitlines()[0])
    assert words == ["study", "start", spec.name, "--storage", str(tmp_path / "what?.db")]


def test_a_link_to_a_database_leads_to_it_for_readers_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    open_database(sqlite_url(tmp_path / "real" / "50%.db")).close()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "50%.db")
    open_to_read(sqlite_url(tmp_path / "link.db")).close()
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["link.db"]
