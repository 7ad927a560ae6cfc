"""Work on a loaded study: trials with live progress, then its final and its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from optimizer.cli.common import (
    console,
    database_to_change,
    escaped,
    interactive,
    patience_seconds,
    quiet_optuna,
    stored_url,
)
from optimizer.cli.process import STOPPING
from optimizer.cli.workers.model_folders import models_option
from optimizer.cli.workers.monitoring import UNMONITORED, Monitoring
from optimizer.cli.workers.study_end import end_study, finish_with_progress
from studies.system.advice import advised

if TYPE_CHECKING:
    from optimizer.observe.events import Reporter
    from optimizer.runtime.setup import Runtime
    from optimizer.system.retry import Retry
    from studies.files.artifacts import Artifacts
    from studies.records.database import Database
    from studies.records.study_records import StudyRecords

T = TypeVar("T")

BUDGET_OPTIONS = {"trials": " --trials N", "patience": " --patience N"}  # why a study ended -> how to resume it


def has_ended(records: StudyRecords) -> bool:
    """Return whether a worker would find nothing to do, so that no model needs to be loaded."""
    from optimizer.work.scheduling import PendingWork
    from studies.records.workers import live_workers

    return PendingWork(records).task(records, live_workers(records.database)) is None


def environments_of_others(
    count: int | None, runtime: Runtime, url: str, artifacts: str | Path | None, cache: Path
) -> list[dict[str, str]]:
    """Return the environments of the additional workers, and limit this process to its share of the cores.

    Args:
        count: the number of workers on this machine, including this one; None: one for each GPU.
    """
    import torch

    from optimizer.cli.workers.local_workers import environments, options_as_variables

    own, *others = environments(count, runtime.device)
    if runtime.device.type == "cpu":
        torch.set_num_threads(int(own["OMP_NUM_THREADS"]))
    return [options_as_variables(url, artifacts, cache) | other for other in others]


def work_on(
    records: StudyRecords,
    runtime: Runtime,
    artifacts: str | Path | None,
    monitoring: Monitoring = UNMONITORED,
    others: Sequence[Mapping[str, str]] = (),
    models: Sequence[Path] | None = None,
) -> bool:
    """Run trials with live progress, hold the final, and print the outcome.

    Args:
        others: the environments of additional workers to start on this machine.
        models: the folders of `--models`, for the command with which to go on.

    Returns:
        False if it was stopped before the budget was spent.
    """
    from optimizer.cli.views.progress import ProgressReporter
    from optimizer.cli.workers.local_workers import local_workers
    from optimizer.work.trial_loop import TrialLoop
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import open_study

    quiet_optuna()
    folder = Artifacts.beside(records.database.url, artifacts)
    with (
        stopping() as stop,
        local_workers(records.study.name, others, stop, _moved_to(records, runtime)),
        ProgressReporter(records, runtime.objective, stop) as people,
    ):
        reporter = monitoring.reporter(records, people)
        finished = TrialLoop(records, runtime, folder, reporter, stop.is_set, patience_seconds()).run()
    records = open_study(records.database, records.study.name)
    stopped = stop.is_set() or records.study.status != "active"
    if stopped:
        going_on = f"Stopped. Continue with: {_resume_command(records, models)}"
    else:
        final_after(records, runtime, folder, reporter)
        going_on = "" if finished else how_to_go_on(records, models)
    end_study(records, folder, going_on, is_stopped=stopped)
    return not stopped


def _moved_to(records: StudyRecords, runtime: Runtime) -> tuple[Path, ...]:
    """List the folders in which this process found the study's files; none if they are where the study names them."""
    from studies.spec.paths import folders_of, paths_of

    spec = runtime.plan.spec
    return () if paths_of(spec) == paths_of(records.study.spec) else folders_of(spec)


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C or SIGTERM sets, so that the trial in progress is finished.

    A second one stops at once, and loses only that trial.
    """
    from optimizer.cli.views.progress import FINISHING

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if not interactive():  # the live display shows it anyway
            with suppress(OSError):  # nobody may be there to read it
                os.write(sys.stderr.fileno(), f"\n{FINISHING}\n".encode())  # the console may be busy printing a line

    before = {number: signal.signal(number, on_signal) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def database_to_work(storage: str, monitoring: Monitoring = UNMONITORED) -> Database:
    """Open a database for a command that works on studies; one that is away is waited for.

    Raises:
        DatabaseError: as `database_to_change`.
        DatabaseLostError: it stayed away.
    """
    url = stored_url(storage)
    return patiently(lambda: database_to_change(url), monitoring)


def patiently(action: Callable[[], T], monitoring: Monitoring = UNMONITORED) -> T:
    """Return what `action` does with the database at a command's start, with the patience of a worker at work.

    Raises:
        DatabaseLostError: the database stayed away.
    """
    from optimizer.cli.views.progress import OutageReporter
    from optimizer.observe.events import Reporters

    return retry_for(Reporters([OutageReporter(), monitoring]))(action)


def final_after(records: StudyRecords, runtime: Runtime, artifacts: Artifacts, reporter: Reporter) -> None:
    """Hold the final once the budget is spent; if other workers are still at work, the last of them does it."""
    from optimizer.errors import FinalError
    from optimizer.outcome.finishing import final_is_due
    from optimizer.work.final_claim import holding_final

    if not final_is_due(records):
        return
    retry = retry_for(reporter)
    try:
        with holding_final(records, retry):
            finish_with_progress(records, runtime, artifacts, reporter, retry)
    except FinalError as error:
        console.print(f"no final: {escaped(str(error))}", soft_wrap=True)


def retry_for(reporter: Reporter) -> Retry:
    """Wait for a database or store that is away as long as MERGETUNE_PATIENCE_SECONDS says, and report it."""
    from optimizer.observe.events import reporting_retry

    return reporting_retry(reporter, patience_seconds())


def how_to_go_on(records: StudyRecords, models: Sequence[Path] | None = None) -> str:
    """Return a line on how to continue a study whose budget is spent; empty while it is not spent.

    Args:
        models: the folders of `--models`.
    """
    from optimizer.search.stopping import stored_end
    from studies.records.stored_trials import load_trials

    end = stored_end(records, load_trials(records))
    if end is None:
        return ""
    more = BUDGET_OPTIONS.get(end.key, ", after raising the budget in its spec file")
    return f"The study has ended; continue with: {_resume_command(records, models)}{more}"


def _resume_command(records: StudyRecords, models: Sequence[Path] | None) -> str:
    return advised(f'study resume "{records.study.name}"', records.database.url, models_option(models))
