"""What a worker of several studies has to do: built from a command's options, and sent to other machines by Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import plain, typed_path
from optimizer.cli.common import (
    cache_folder,
    console,
    escaped,
    fail,
    loading_libraries,
    patience_seconds,
    print_error,
    stored_url,
)
from optimizer.cli.workers.loading import load_runtime, open_unchanged_plan
from optimizer.cli.workers.model_folders import MODELS_VARIABLE, model_folders, require_folders
from optimizer.cli.workers.monitoring import UNMONITORED, Monitoring
from optimizer.cli.workers.session import database_to_work, patiently
from optimizer.cli.workers.study_end import finish_with_progress, print_shown, show_outcome

if TYPE_CHECKING:
    from optimizer.observe.events import Event, Reporter
    from optimizer.runtime.model_files import ModelFolders
    from optimizer.runtime.setup import Runtime
    from optimizer.work.worker import Worker
    from studies.files.artifacts import Artifacts
    from studies.records.database import Database
    from studies.records.study_records import StudyRecords

StudyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--study", parser=plain, metavar="NAME", help="Work only on this study; may be repeated.", show_default=False
    ),
]
ModelOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--models",
        parser=typed_path,
        metavar="FOLDER",
        help="Folder in which to find a study's files by their sha256; no file outside is read; may be repeated. "
        f"[default: {MODELS_VARIABLE}]",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The studies that a worker works on, and its settings. It can be sent to another machine."""

    storage: str  # URL
    names: frozenset[str]  # of studies; empty: all
    folders: ModelFolders
    artifacts: str | None
    cache: Path
    patience_seconds: float
    until_done: bool = False
    finals: bool = True

    def worker(self, database: Database, stop: threading.Event, monitoring: Monitoring) -> Worker:
        """Build the worker that carries out this assignment in this process."""
        with loading_libraries():
            from optimizer.runtime.pool import RuntimePool
            from optimizer.work.worker import Worker, WorkerSettings
            from studies.files.artifacts import Artifacts

        settings = WorkerSettings(
            names=self.names,
            until_done=self.until_done,
            finals=self.finals,
            patience_seconds=self.patience_seconds,
        )
        store = Artifacts.beside(self.storage, self.artifacts)
        runtimes = RuntimePool(
            lambda study: open_unchanged_plan(study, self.folders),
            lambda plan, study: load_runtime(plan, study.parents, self.cache),
        )
        host = TerminalHost(store, stop, self.patience_seconds, monitoring)
        return Worker(database, runtimes, store, host, stop, settings)


def assigned(
    storage: str,
    names: list[str] | None,
    models: list[Path] | None,
    artifacts: str | None,
    cache: Path | None,
    monitoring: Monitoring = UNMONITORED,
) -> tuple[Assignment, Database]:
    """Check a command's options, and return the assignment and the opened database.

    Raises:
        StudyMissingError: a named study does not exist.
        DatabaseError: the database cannot be used.
        DatabaseLostError: it is away, and stayed away.
    """
    from studies.system.database_url import database_file

    url, caches = stored_url(storage), cache_folder(cache)
    require_folders(models or ())
    database = database_to_work(url, monitoring)
    from studies.records.stored_studies import open_study

    chosen = frozenset(patiently(lambda: [open_study(database, name).study.name for name in names or ()], monitoring))
    folders = model_folders(models, caches)
    if not folders.folders and not names and database_file(url) is None:
        fail(
            "a worker for all studies of a database server would read any file that the database names: give the "
            f"allowed folders with --models or {MODELS_VARIABLE}, or choose studies with --study"
        )
    assignment = Assignment(
        storage=url,
        names=chosen,
        folders=folders,
        artifacts=artifacts,
        cache=caches,
        patience_seconds=patience_seconds(),
    )
    return assignment, database


class TerminalHost:
    """A worker's Host that shows progress on the terminal.

    Args:
        patience_seconds: how long an outage of the database or of the artifact store may last.
    """

    def __init__(
        self, artifacts: Artifacts, stop: threading.Event, patience_seconds: float, monitoring: Monitoring
    ) -> None:
        self._artifacts, self._stop = artifacts, stop
        self._patience_seconds, self._monitoring = patience_seconds, monitoring

    @contextmanager
    def at(self, records: StudyRecords, runtime: Runtime) -> Iterator[Reporter]:
        """Show the progress of a study while the block runs."""
        from optimizer.cli.views.progress import ProgressReporter
        from optimizer.observe.events import reporting_retry

        retry = reporting_retry(self, self._patience_seconds)
        console.print(f"working on study {escaped(records.study.name)}", soft_wrap=True)
        with retry(lambda: ProgressReporter(records, runtime.objective, self._stop)) as people:
            yield self._monitoring.reporter(records, people)

    def hold_final(self, records: StudyRecords, runtime: Runtime) -> None:
        """Hold a study's final, store it, and bring up to date what shows the study's outcome.

        Raises:
            FinalError: there is nothing to compare.
        """
        from optimizer.cli.views.progress import OutageReporter
        from optimizer.observe.events import reporting_retry

        console.print(f"holding the final of {escaped(records.study.name)}", soft_wrap=True)
        reporter = self._monitoring.reporter(records, OutageReporter())
        retry = reporting_retry(reporter, self._patience_seconds)
        finish_with_progress(records, runtime, self._artifacts, reporter, retry)
        print_shown(retry(lambda: show_outcome(records, self._artifacts)))

    def report(self, event: Event) -> None:
        """Print what happens between two studies, and log it."""
        from optimizer.cli.views.progress import OutageReporter
        from optimizer.observe.events import OutageBegan, StudyRefused, VotesAwaited, WaitingForWork

        match event:
            case StudyRefused(name=name, reason=reason):
                print_error(f"study {escaped(name)} cannot be worked on here", reason)
            case VotesAwaited(name=name, trials=trials):
                console.print(escaped(f"{name} waits for votes on {trials} merges"), soft_wrap=True)
            case WaitingForWork():
                console.print("waiting for work; Ctrl-C or SIGTERM to leave", soft_wrap=True)
            case OutageBegan():
                OutageReporter().report(event)
        self._monitoring.report(event)
