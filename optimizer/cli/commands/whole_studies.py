"""`mergetune study delete`, `rename` and `clone`: a study as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from basics.messages import counted
from basics.names import plain
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    StudyName,
    console,
    database_to_change,
    escaped,
    fail,
    loading_libraries,
    quiet_optuna,
)
from studies.system.advice import DEFAULT_STORAGE, advised

if TYPE_CHECKING:
    from studies.files.artifacts import Artifacts
    from studies.records.study_records import StudyRecords

NewName = Annotated[str, typer.Argument(parser=plain, metavar="NEW", help="The new name.", show_default=False)]


def delete(
    study: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
) -> None:
    """Delete a study with its trials, scores, renders and pictures; files of parents and exports stay."""
    records, store = _opened(study, storage, artifacts)
    from studies.records.stored_trials import load_trials
    from studies.records.whole_studies import delete_study, require_idle

    require_idle(records)
    name = records.study.name
    what = f"study {name!r} with {counted(len(load_trials(records)), 'trial')}, their scores, renders and pictures"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"this would delete {what}: add --yes if it should")
        if not typer.confirm(f"Delete {what}?"):
            fail("nothing was deleted")
    delete_study(records, store)
    console.print(escaped(f"{name} is deleted"), soft_wrap=True)


def rename(
    study: StudyName, new: NewName, storage: Storage = DEFAULT_STORAGE, artifacts: ArtifactFolder = None
) -> None:
    """Give a study another name; the folder of its files, named by its key, stays."""
    records, store = _opened(study, storage, artifacts)
    with loading_libraries():
        from optimizer.dashboard.study_page import describe_study
        from studies.records.whole_studies import rename_study

    name = _usable(new)
    renamed = rename_study(records, store, name)
    describe_study(renamed, store)
    console.print(escaped(f"{records.study.name} is {name} now"), soft_wrap=True)


def clone(
    study: StudyName,
    new: NewName,
    trials: Annotated[
        bool, typer.Option("--trials", help="Begin with the finished trials, with their scores, renders and votes.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
) -> None:
    """Make a new study with the spec of another one, paused until it is resumed."""
    records, store = _opened(study, storage, artifacts)
    from studies.records.stored_trials import load_trials
    from studies.records.whole_studies import clone_study

    made = clone_study(records, store, _usable(new), trials=trials)
    if trials and made.study.spec.voted is not None:
        with loading_libraries():
            from optimizer.preference.values import refresh_preference

        refresh_preference(made)
    copied = f", with {counted(len(load_trials(made)), 'trial')} of it" if trials else ""
    again = advised(f'study resume "{made.study.name}"', made.database.url)
    console.print(escaped(f"{made.study.name} is a clone of {records.study.name}{copied}; begin with: {again}"))


def _opened(study: str, storage: str, artifacts: str | None) -> tuple[StudyRecords, Artifacts]:
    database = database_to_change(storage)
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import open_study

    quiet_optuna()
    records = open_study(database, study)
    return records, Artifacts.beside(records.database.url, artifacts)


def _usable(name: str) -> str:
    from studies.spec.study import usable_name

    try:
        return usable_name(name)
    except ValueError as error:
        fail(f"no study can be called {name!r}: {error}")
