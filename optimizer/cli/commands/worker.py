"""`mergetune worker`: a worker of every study of a database, or of some."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    CacheFolder,
    Storage,
    cache_folder,
    console,
    database_to_change,
    escaped,
    fail,
    loading_libraries,
    print_error,
    quiet_optuna,
    storage_url,
)
from optimizer.cli.workers.monitoring import LogJson, MetricsAddress, Watch, observing

if TYPE_CHECKING:
    from optimizer.observe.events import Reporter
    from optimizer.runtime.model_files import ModelFolders
    from optimizer.runtime.setup import Machine
    from optimizer.system.retry import Endurance
    from optimizer.work.service import Service
    from studies.files.artifacts import Artifacts
    from studies.records.database import Database
    from studies.records.values import StoredStudy

MODELS_VARIABLE = "MERGETUNE_MODELS"


StudyNames = Annotated[
    list[str] | None,
    typer.Option("--study", metavar="NAME", help="Work on this study alone; may be repeated.", show_default=False),
]
ModelOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--models",
        help="Folder in which a study's files are looked for by their sha256, and outside of which none are read; "
        f"may be repeated. [default: {MODELS_VARIABLE}]",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is to work on, and with what. Can be sent to another machine."""

    storage: str  # URL
    names: frozenset[str]  # of studies; none means all
    folders: ModelFolders
    artifacts: str | None
    cache: Path
    patience_seconds: float
    until_done: bool = False
    finals: bool = True

    def service(self, database: Database, stop: threading.Event, watch: Watch) -> Service:
        """A worker of this process."""
        with loading_libraries():
            from optimizer.cli.workers.session import built, planned
            from optimizer.runtime.pool import Machines
            from optimizer.system.retry import Endurance
            from optimizer.work.service import Service, Settings
            from studies.files.artifacts import Artifacts

        settings = Settings(
            names=self.names,
            until_done=self.until_done,
            finals=self.finals,
            patience_seconds=self.patience_seconds,
        )
        store = Artifacts.beside(self.storage, self.artifacts)
        machines = Machines(
            lambda study: planned(study, self.folders), lambda plan, study: built(plan, study.parents, self.cache)
        )
        host = Terminal(database, store, stop, Endurance(limit_seconds=self.patience_seconds), watch)
        return Service(database, machines, store, host, stop, settings)


def assigned(
    storage: str, names: list[str] | None, models: list[Path] | None, artifacts: str | None, cache: Path | None
) -> tuple[Assignment, Database]:
    """What the options ask for, checked, and the opened database."""
    from optimizer.cli.workers.session import patience_seconds
    from studies.records.stored_studies import load_study
    from studies.system.database_url import database_file

    url, caches = storage_url(storage), cache_folder(cache)
    database = database_to_change(url)
    for name in names or ():
        load_study(database, name)
    folders = model_folders(models, caches)
    if not folders.folders and not names and database_file(url) is None:
        fail(
            "a worker of every study of a server reads whatever files the database names: say from which folders with "
            f"--models or {MODELS_VARIABLE}, or which studies with --study"
        )
    assignment = Assignment(
        storage=url,
        names=frozenset(names or ()),
        folders=folders,
        artifacts=artifacts,
        cache=caches,
        patience_seconds=patience_seconds(),
    )
    return assignment, database


def worker(
    context: typer.Context,
    study: StudyNames = None,
    models: ModelOption = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="Leave when there is nothing left to do.")] = False,
    no_final: Annotated[bool, typer.Option("--no-final", help="Leave the finals to others.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    log_json: LogJson = None,
    metrics: MetricsAddress = None,
) -> None:
    """Take trials of every active study whose files can be found, until it is stopped."""
    from optimizer.cli.workers.session import stopping

    quiet_optuna()
    watch = observing(context, log_json, metrics)
    assignment, database = assigned(storage, study, models, artifacts, cache)
    with stopping() as stop:
        asked = replace(assignment, until_done=until_done, finals=not no_final)
        finished = asked.service(database, stop, watch).run()
    console.print(f"{finished} {'trial' if finished == 1 else 'trials'} finished by this worker")


def model_folders(given: list[Path] | None, caches: Path) -> ModelFolders:
    """The folders of the options, or of MERGETUNE_MODELS, several of which are separated as in PATH."""
    import studies.demo
    from optimizer.runtime.model_files import ModelFolders

    told = os.environ.get(MODELS_VARIABLE, "")
    folders = given or [Path(part) for part in told.split(os.pathsep) if part]
    for folder in folders:
        if not folder.expanduser().is_dir():
            fail(f"--models: {folder} is not a folder")
    return ModelFolders(
        folders=tuple(folder.expanduser().resolve() for folder in folders),
        digests=caches / "sha256.json",
        also=(caches, Path(studies.demo.__file__).parent),
    )


class Terminal:
    """A service's Host for people."""

    def __init__(
        self, database: Database, artifacts: Artifacts, stop: threading.Event, endure: Endurance, watch: Watch
    ) -> None:
        self._database, self._artifacts, self._stop = database, artifacts, stop
        self._endure, self._watch = endure, watch

    @contextmanager
    def at(self, study: StoredStudy, machine: Machine) -> Iterator[Reporter]:
        from optimizer.cli.views.progress import ProgressReporter

        console.print(f"at study {escaped(study.name)}", soft_wrap=True)
        with self._endure(lambda: ProgressReporter(self._database, study, machine.objective, self._stop)) as people:
            yield self._watch.reporter(self._database, study, people)

    def hold_final(self, study: StoredStudy, machine: Machine) -> None:
        from optimizer.cli.views.final import finish_study
        from optimizer.insight.interactive import save_figures

        console.print(f"the final of {escaped(study.name)}", soft_wrap=True)
        reporter = self._watch.reporter(self._database, study)
        finish_study(self._database, study, machine, self._artifacts, reporter, self._endure)
        self._endure(lambda: save_figures(self._database, study, machine.objective))

    def refused(self, name: str, reason: str) -> None:
        print_error(f"study {escaped(name)} cannot be worked on here", reason)
        self._watch.tell("study_refused", "warning", name=name, reason=reason)

    def waiting(self) -> None:
        console.print("waiting for work; Ctrl-C or SIGTERM to leave", soft_wrap=True)

    def outage_began(self, reason: str, limit_seconds: float) -> None:
        from optimizer.cli.views.progress import print_waiting

        print_waiting(reason, limit_seconds)
        self._watch.tell("outage_began", "warning", reason=reason, limit=limit_seconds)

    def outage_ended(self, seconds: float) -> None:
        self._watch.tell("outage_ended", took=seconds)
