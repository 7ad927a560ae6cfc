"""`mergetune study delete`, `rename` and `clone` as a user types them: what goes, what stays, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from command_line import Call, run_in
from demo_study import SMALL, write_spec

from studies.files.artifacts import Artifacts
from studies.records import stored_studies, stored_trials, workers
from studies.records.cut_off_starts import cut_off_starts
from studies.records.database import Database, open_database
from studies.records.study_records import StudyRecords

CHANGES = {
    **SMALL,
    "study": "first",
    "budget": {"trials": 4},
    "probes": {"uniform": [0.5], "profiles": 0},
    "render": {"degenerate_limit": 8, "keep": "all"},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study `first` has ended; read only."""
    folder = tmp_path_factory.mktemp("ended")
    run_in(folder, "study", "start", write_spec(folder / "first.yaml", **CHANGES))
    return folder


@pytest.fixture
def database(ended: Path, folder: Path) -> Iterator[Database]:
    """The database of the current folder, in which the study `first` has ended."""
    shutil.copytree(ended, folder, dirs_exist_ok=True)
    opened = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    yield opened
    opened.close()


def files(folder: Path) -> set[str]:
    store = folder / "mergetune-artifacts"
    return {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}


def names(database: Database) -> tuple[list[str], list[str]]:
    """Return the names of our studies and of Optuna's."""
    ours = [records.study.name for records in stored_studies.list_studies(database)]
    return ours, optuna.get_all_study_names(storage=database.storage)


def trials(records: StudyRecords) -> list[tuple[str, dict[str, float]]]:
    return [(trial.recipe_text, dict(trial.objectives)) for trial in stored_trials.load_trials(records)]


def test_a_deleted_study_leaves_nothing_and_its_name_is_free(folder: Path, call: Call, database: Database) -> None:
    asked = call("study", "delete", "first", code=2)
    assert "this would delete study 'first' with 4 trials" in asked.err
    assert "--yes" in asked.err
    assert files(folder)
    assert "first is deleted" in call("study", "delete", "first", "--yes", code=0).out
    assert names(database) == ([], [])
    assert files(folder) == set()
    assert cut_off_starts(database) == {}
    call("study", "start", folder / "first.yaml", code=0)
    assert len(trials(stored_studies.open_study(database, "first"))) == 4


def test_other_studies_are_untouched(folder: Path, call: Call, database: Database) -> None:
    call("study", "clone", "first", "second", "--trials", code=0)
    records = stored_studies.open_study(database, "second")
    before = trials(records), {name for name in files(folder) if records.study.key in name}
    assert before[1]
    call("study", "delete", "first", "--yes", code=0)
    assert (trials(records), files(folder)) == before
    call("study", "doctor", code=0)


def test_a_renamed_study_keeps_key_trials_and_pictures(folder: Path, call: Call, database: Database) -> None:
    before = stored_studies.open_study(database, "first")
    pictures = Artifacts.beside(database.url).shown_files("first", before.study.key)
    assert pictures
    assert "first is the-better one now" in call("study", "rename", "first", "the-better one", code=0).out
    after = stored_studies.open_study(database, "the-better one")
    assert (after.study.key, after.study.spec.study) == (before.study.key, "the-better one")
    assert trials(after) == trials(before)
    assert names(database) == (["the-better one"], ["the-better one"])
    renamed = Artifacts.beside(database.url).shown_files("the-better one", before.study.key)
    assert renamed == [name.replace("first", "the-better one", 1) for name in pictures]
    assert not Artifacts.beside(database.url).shown_files("first", before.study.key)
    call("study", "resume", "the-better one", "--trials", "5", code=0)
    assert len(trials(after)) == 5


def test_a_clone_begins_anew_and_paused_or_with_all_trials(folder: Path, call: Call, database: Database) -> None:
    first = stored_studies.open_study(database, "first")
    call("study", "clone", "first", "anew", code=0)
    anew = stored_studies.open_study(database, "anew")
    assert (trials(anew), anew.study.status) == ([], "paused")
    assert anew.study.spec.model_copy(update={"study": "first"}) == first.study.spec
    said = call("study", "clone", "first", "again", "--trials", code=0)
    assert "with 4 trials of it" in said.out
    again = stored_studies.open_study(database, "again")
    assert trials(again) == trials(first)
    copies = [trial.source for trial in stored_trials.load_trials(again)]
    assert copies == [f"first trial {number}" for number in range(4)]
    call("study", "resume", "again", "--trials", "1", code=0)
    assert len(trials(again)) == 5  # one of its own


@pytest.mark.parametrize("command", ["rename", "clone"])
def test_names_that_are_taken_or_impossible_are_refused(call: Call, database: Database, command: str) -> None:
    call("study", "clone", "first", "second", code=0)
    assert "exists in this database" in call("study", command, "first", "second", code=2).err
    assert "no study can be called '../x'" in call("study", command, "first", "../x", code=2).err
    assert "at most 60 characters" in call("study", command, "first", "x" * 61, code=2).err
    assert "no study named 'third'" in call("study", command, "third", "fourth", code=2).err
    assert names(database)[0] == ["first", "second"]


@pytest.mark.parametrize("arguments", [("delete", "first", "--yes"), ("rename", "first", "second")])
def test_a_study_at_which_a_worker_is_stays_as_it_is(call: Call, database: Database, arguments: tuple[str]) -> None:
    worker = workers.register_worker(database)  # this process, which lives
    workers.turn_to(database, worker, stored_studies.open_study(database, "first").study, "trials")
    refused = call("study", *arguments, code=2).err
    assert "1 worker is at work on study 'first': stop it with `mergetune study stop" in refused
    assert names(database) == (["first"], ["first"])
    workers.remove_worker(database, worker)
    call("study", *arguments, code=0)


def test_what_a_deletion_leaves_that_was_cut_off_is_removed_by_the_next(
    folder: Path, call: Call, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("studies.records.whole_studies.remove_cut_off_start", cut_off)
        call("study", "delete", "first", "--yes", code=130)
    assert names(database) == ([], ["first"])
    assert files(folder)
    call("study", "doctor", "--mend", code=0)
    assert names(database) == ([], [])
    assert files(folder) == set()
