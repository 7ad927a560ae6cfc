"""Running trials: what `study start`, `study resume` and `worker` share, and `mergetune worker` itself."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    CacheFolder,
    Storage,
    cache_folder,
    console,
    escaped,
    interactive,
    storage_url,
)

RAISED = {"trials": " --trials N", "patience": " --patience N"}  # how a resume goes on beyond an end

if TYPE_CHECKING:
    from optimizer.setup import Machine, Plan
    from studies.artifacts import Artifacts
    from studies.database import Database
    from studies.results import ParentFile, StoredStudy


def worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Work on a study beside its other workers, until its budget is spent or it is stopped."""
    from studies.database import open_database
    from studies.results import load_study

    database = open_database(storage_url(storage), create=False)
    stored = load_study(database, study)
    work_on(database, stored, resumed(stored, cache_folder(cache)), artifacts)


def begun(
    spec: Path, url: str, cache: Path, artifacts: str | Path | None = None
) -> tuple[Database, StoredStudy, Machine]:
    """A new study: everything is loaded first and stored only then, so what cannot run is not begun."""
    from dataclasses import replace

    from optimizer.cli.planning import print_notes, print_plan
    from optimizer.setup import choose_device, make_plan, render_dtype
    from optimizer.warm_start import find_warm_start, require_other_study
    from optimizer.worker import quiet_optuna
    from studies.artifacts import Artifacts
    from studies.database import open_database
    from studies.results import create_study, require_new
    from studies.spec import load_spec

    quiet_optuna()
    plan = make_plan(load_spec(spec))
    device = choose_device(plan.spec.render.device)
    render_dtype(plan.spec.render, device)
    require_other_study(plan.spec, url)
    database = open_database(url)  # made where it is missing, so only now
    require_new(database, plan.spec.study)
    print_plan(plan, device)
    parents = hashed(plan, ())
    found = find_warm_start(plan, parents, device, url, artifacts)
    if found is not None:
        print_notes(found.notes)
        plan = replace(plan, spec=found.written_into(plan.spec))
    machine = _loaded(plan, parents, cache)
    objective = machine.objective
    takeover = found.takeover(machine, Artifacts.beside(url, artifacts)) if found is not None and found.kept else None
    stored = create_study(database, machine.spec, parents, objective.directions, objective.names, takeover)
    return database, stored, machine


def resumed(stored: StoredStudy, cache: Path) -> Machine:
    """The machine of a stored study; refuses parents that have changed."""
    from studies.fingerprints import refuse_changed_files

    refuse_changed_files(stored.fingerprints, stored.spec)
    return _loaded(verified_plan(stored), stored.parents, cache)


def verified_plan(stored: StoredStudy, *, trust_times: bool = True) -> Plan:
    """A stored study's plan, its parents being the files it began with."""
    from optimizer.setup import make_plan

    plan = make_plan(stored.spec)
    hashed(plan, stored.parents, trust_times=trust_times)
    return plan


def hashed(plan: Plan, known: tuple[ParentFile, ...], *, trust_times: bool = True) -> tuple[ParentFile, ...]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from optimizer.setup import hash_parents

    total = sum(checkpoint.size_bytes for checkpoint in plan.checkpoints)
    columns = (TextColumn("hashing parents"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        return hash_parents(plan, known, lambda size: progress.advance(task, size), trust_times=trust_times)


def _loaded(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> Machine:
    from optimizer.setup import build_machine

    with console.status("loading parents, pipeline and scorers"):
        return build_machine(plan, parents, cache)


def final_after(database: Database, stored: StoredStudy, machine: Machine, artifacts: Artifacts) -> None:
    """The final, once the budget is spent; left to the last worker where others are still at work."""
    from optimizer.cli.final import final_is_due, finish_study
    from optimizer.errors import FinalError

    if not final_is_due(database, stored):
        return
    try:
        finish_study(database, stored, machine, artifacts)
    except FinalError as error:
        console.print(f"no final: {escaped(str(error))}", soft_wrap=True)


def work_on(database: Database, stored: StoredStudy, machine: Machine, artifacts: str | None) -> bool:
    """Run trials with live progress, hold the final, report; False when it was stopped before its budget was spent."""
    from optimizer.budget import end_of
    from optimizer.cli.progress import ProgressReporter
    from optimizer.cli.report import print_study, save_comparison
    from optimizer.insight.interactive import save_figures
    from optimizer.worker import Worker, quiet_optuna
    from studies.artifacts import Artifacts
    from studies.results import load_study, load_trials

    quiet_optuna()
    folder = Artifacts.beside(database.url, artifacts)
    with _stopping() as stop, ProgressReporter(database, stored, machine.objective, stop) as reporter:
        finished = Worker(database, stored, machine, folder, reporter, stop.is_set, patience_seconds()).run()
    stored = load_study(database, stored.name)
    stopped = stop.is_set() or stored.stop_requested
    if not stopped:
        final_after(database, stored, machine, folder)
    save_figures(database, stored, machine.objective)
    print_study(database, stored, every_trial=False)
    sheet = save_comparison(database, stored, folder)
    if sheet is not None:
        console.print(f"contact sheet, parents beside the best: {escaped(sheet)}", soft_wrap=True)
    again = f'mergetune study resume "{stored.name}"{_storage_option(database)}'
    if stopped:
        console.print(escaped(f"Stopped. Go on with: {again}"), soft_wrap=True)
    elif finished == 0:
        rows = load_trials(database, stored)
        if end := end_of(database, stored, rows):
            more = RAISED.get(end.key, ", from its spec with a larger budget")
            console.print(escaped(f"The study has ended; go on with: {again}{more}"), soft_wrap=True)
    return not stopped


def patience_seconds() -> float:
    """How long a worker waits for a database that has gone away: MERGETUNE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        StorageError: it is no number of seconds.
    """
    from optimizer.errors import StorageError
    from optimizer.outages import LIMIT_SECONDS

    told = os.environ.get("MERGETUNE_PATIENCE_SECONDS", str(LIMIT_SECONDS))
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise StorageError(f"MERGETUNE_PATIENCE_SECONDS: expected a number of seconds of at least 0, got {told!r}")
    return seconds


def _storage_option(database: Database) -> str:
    """What a command needs to find the same database again."""
    from studies.database import database_file, redacted

    if database.url == DEFAULT_STORAGE or os.environ.get("MERGETUNE_STORAGE"):
        return ""
    return f" --storage {shlex.quote(str(database_file(database.url) or redacted(database.url)))}"


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM: finish the trial in progress; a second one leaves at once, and loses only that trial."""
    from optimizer.cli.progress import FINISHING

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if not interactive():  # the live display says it by itself
            os.write(sys.stderr.fileno(), f"\n{FINISHING}\n".encode())  # the console may be in the middle of a line

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
