"""Running trials: what `study start`, `study resume` and `worker` share."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from optimizer.cli.common import (
    DEFAULT_STORAGE,
    console,
    escaped,
    interactive,
    loading_libraries,
    quiet_optuna,
)
from optimizer.cli.workers.model_folders import model_folders
from optimizer.cli.workers.monitoring import NOBODY, Monitoring

RAISED = {"trials": " --trials N", "patience": " --patience N"}  # how a resume goes on beyond an end

if TYPE_CHECKING:
    import torch

    from optimizer.observe.events import Reporter
    from optimizer.outcome.warm_start import WarmStart
    from optimizer.runtime.model_files import ModelFolders
    from optimizer.runtime.plan import Plan
    from optimizer.runtime.setup import Runtime
    from optimizer.system.retry import Retry
    from studies.files.artifacts import Artifacts
    from studies.records.database import Database
    from studies.records.values import ParentFile, StoredStudy


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A new study that is understood and not stored yet: what cannot run is not begun."""

    database: Database
    plan: Plan
    parents: tuple[ParentFile, ...]
    found: WarmStart | None
    artifacts: str | Path | None

    def store(self, plan: Plan) -> StoredStudy:
        """Register the study.

        Args:
            plan: this one with the units of its scores written out.
        """
        from studies.files.artifacts import Artifacts
        from studies.records.stored_studies import create_study

        takeover = None
        if self.found is not None and self.found.kept:
            takeover = self.found.takeover(plan, Artifacts.beside(self.database.url, self.artifacts))
        objective = plan.objective
        return create_study(self.database, plan.spec, self.parents, objective.directions, objective.names, takeover)


def begun(
    spec: Path, url: str, cache: Path, artifacts: str | Path | None = None
) -> tuple[Database, StoredStudy, Runtime]:
    """A new study: everything is loaded first and stored only then."""
    beginning = _beginning(spec, url, artifacts, _device_of)
    runtime = built(beginning.plan, beginning.parents, cache)
    return beginning.database, beginning.store(runtime.plan), runtime


def _device_of(plan: Plan) -> torch.device:
    from optimizer.runtime.device_choice import choose_device, render_dtype

    device = choose_device(plan.spec.render.device)
    render_dtype(plan.spec.render, device)
    return device


def _cpu(_plan: Plan) -> torch.device:
    import torch

    return torch.device("cpu")


def registered(spec: Path, url: str, cache: Path, artifacts: str | Path | None = None) -> tuple[Database, StoredStudy]:
    """A new study for other workers: everything is checked but for what their device can do."""
    beginning = _beginning(spec, url, artifacts, _cpu)
    with console.status("loading scorers"):
        from optimizer.runtime.setup import settled

        plan, _ = settled(beginning.plan, beginning.parents, _cpu(beginning.plan), cache)
    return beginning.database, beginning.store(plan)


def _beginning(spec: Path, url: str, artifacts: str | Path | None, choose: Callable[[Plan], torch.device]) -> Beginning:
    from studies.records.database import open_database
    from studies.records.network_shares import require_local
    from studies.records.stored_studies import require_new
    from studies.spec.study import load_spec
    from studies.system.database_url import database_file

    quiet_optuna()
    require_local(url)
    loaded, file = load_spec(spec), database_file(url)
    database = open_database(url) if file is None or file.exists() else None
    if database is not None:
        require_new(database, loaded.study)
    with loading_libraries():
        from optimizer.cli.views.planning import print_notes
        from optimizer.outcome.warm_start import find_warm_start, require_other_study
        from optimizer.runtime.plan import make_plan

    plan = make_plan(loaded)
    device = choose(plan)
    require_other_study(plan.spec, url)
    database = database or open_database(url)  # a file that is missing is made only now
    parents = introduced(database, plan, device)
    found = find_warm_start(plan, parents, device, url, artifacts)
    if found is not None:
        print_notes(found.notes)
        plan = replace(plan, spec=found.written_into(plan.spec))
    return Beginning(database=database, plan=plan, parents=parents, found=found, artifacts=artifacts)


def introduced(database: Database, plan: Plan, device: torch.device) -> tuple[ParentFile, ...]:
    """Say what a new study will do, and hash its parents. Raises StudyExistsError when its name is taken."""
    from optimizer.cli.views.planning import print_plan
    from studies.records.stored_studies import require_new

    require_new(database, plan.spec.study)
    print_plan(plan, device)
    return hashed(plan, ())


def resumed(stored: StoredStudy, cache: Path) -> Runtime:
    """The machine of a stored study; refuses files that have changed."""
    return built(planned(stored, model_folders(None, cache)), stored.parents, cache)


def planned(stored: StoredStudy, folders: ModelFolders) -> Plan:
    """A stored study's plan with its files where they are here; refuses those that have changed."""
    from studies.spec.fingerprints import refuse_changed_files

    plan = verified_plan(stored, folders)
    refuse_changed_files(stored.fingerprints, plan.spec)
    return plan


def verified_plan(stored: StoredStudy, folders: ModelFolders, *, trust_times: bool = True) -> Plan:
    """A stored study's plan, its parents being the files it began with."""
    with loading_libraries():
        from optimizer.runtime.plan import make_plan

    with console.status(f"looking for the files of {escaped(stored.name)}"):
        found = folders.located(stored)
    plan = make_plan(found.spec)
    hashed(plan, found.parents, trust_times=trust_times)
    return plan


def hashed(plan: Plan, known: tuple[ParentFile, ...], *, trust_times: bool = True) -> tuple[ParentFile, ...]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from optimizer.runtime.parent_files import hash_parents

    total = sum(checkpoint.size_bytes for checkpoint in plan.checkpoints)
    columns = (TextColumn("hashing parents"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        return hash_parents(plan, known, lambda size: progress.advance(task, size), trust_times=trust_times)


def built(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> Runtime:
    from optimizer.runtime.setup import build_runtime

    with console.status("loading parents, pipeline and scorers"):
        return build_runtime(plan, parents, cache)


def final_after(
    database: Database, stored: StoredStudy, runtime: Runtime, artifacts: Artifacts, reporter: Reporter
) -> None:
    """The final, once the budget is spent; left to the last worker where others are still at work."""
    from optimizer.cli.views.final import final_is_due, finish_study
    from optimizer.errors import FinalError

    if not final_is_due(database, stored):
        return
    try:
        finish_study(database, stored, runtime, artifacts, reporter, retry_for(reporter))
    except FinalError as error:
        console.print(f"no final: {escaped(str(error))}", soft_wrap=True)


def work_on(
    database: Database,
    stored: StoredStudy,
    runtime: Runtime,
    artifacts: str | Path | None,
    watch: Monitoring = NOBODY,
    others: Sequence[Mapping[str, str]] = (),
) -> bool:
    """Run trials with live progress, hold the final, report; False when it was stopped before its budget was spent.

    Args:
        others: the environments of further workers on this machine.
    """
    from optimizer.cli.views.progress import ProgressReporter
    from optimizer.cli.workers.local_workers import local_workers
    from optimizer.insight.interactive import save_figures
    from optimizer.work.worker import Worker
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import load_study

    quiet_optuna()
    folder = Artifacts.beside(database.url, artifacts)
    with (
        stopping() as stop,
        local_workers(stored.name, others, stop),
        ProgressReporter(database, stored, runtime.objective, stop) as people,
    ):
        reporter = watch.reporter(database, stored, people)
        finished = Worker(database, stored, runtime, folder, reporter, stop.is_set, patience_seconds()).run()
    stored = load_study(database, stored.name)
    stopped = stop.is_set() or stored.status != "active"
    if not stopped:
        final_after(database, stored, runtime, folder, reporter)
    save_figures(database, stored, runtime.objective)
    print_outcome(database, stored, artifacts)
    if stopped:
        console.print(escaped(f"Stopped. Go on with: {_resuming(database, stored)}"), soft_wrap=True)
    elif finished == 0:
        print_end(database, stored)
    return not stopped


def has_ended(database: Database, stored: StoredStudy) -> bool:
    """Whether a worker would find nothing to do, so that nothing need be loaded."""
    from optimizer.work.scheduling import PendingWork
    from studies.records.registry import live_workers

    return PendingWork(database, stored).task(stored, live_workers(database)) is None


def print_outcome(database: Database, stored: StoredStudy, artifacts: str | Path | None) -> None:
    """What the study has found so far, as a table and as a picture."""
    from optimizer.cli.views.report import print_study, save_comparison
    from studies.files.artifacts import Artifacts

    print_study(database, stored, every_trial=False)
    sheet = save_comparison(database, stored, Artifacts.beside(database.url, artifacts))
    if sheet is not None:
        console.print(f"contact sheet, parents beside the best: {escaped(sheet)}", soft_wrap=True)


def print_end(database: Database, stored: StoredStudy) -> None:
    """How to go on with a study whose budget is spent; nothing where it is not."""
    from optimizer.search.stopping import end_of
    from studies.records.stored_trials import load_trials

    if end := end_of(database, stored, load_trials(database, stored)):
        more = RAISED.get(end.key, ", from its spec with a larger budget")
        told = f"The study has ended; go on with: {_resuming(database, stored)}{more}"
        console.print(escaped(told), soft_wrap=True)


def _resuming(database: Database, stored: StoredStudy) -> str:
    """The command."""
    return f'mergetune study resume "{stored.name}"{storage_option(database)}'


def other_workers(
    count: int | None, runtime: Runtime, url: str, artifacts: str | Path | None, cache: Path
) -> list[dict[str, str]]:
    """The environments of the workers beside this one, which takes its share of the machine."""
    import torch

    from optimizer.cli.workers.local_workers import environments, settings_of

    all_of_them = environments(count, runtime.device)
    if runtime.device.type == "cpu":
        torch.set_num_threads(int(all_of_them[0]["OMP_NUM_THREADS"]))
    return [settings_of(url, artifacts, cache) | row for row in all_of_them[1:]]


def retry_for(reporter: Reporter) -> Retry:
    """How outages are waited for, and who is told."""
    from optimizer.system.retry import Retry

    return Retry(limit_seconds=patience_seconds(), on_waiting=reporter.outage_began, on_back=reporter.outage_ended)


def patience_seconds() -> float:
    """How long a worker waits for a database that has gone away: MERGETUNE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        StorageError: it is no number of seconds.
    """
    from optimizer.errors import StorageError
    from optimizer.system.retry import LIMIT_SECONDS

    told = os.environ.get("MERGETUNE_PATIENCE_SECONDS", str(LIMIT_SECONDS))
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise StorageError(f"MERGETUNE_PATIENCE_SECONDS: expected a number of seconds of at least 0, got {told!r}")
    return seconds


def storage_option(database: Database) -> str:
    """What a command needs to find the same database again."""
    from studies.system.database_url import database_file, redacted

    if database.url == DEFAULT_STORAGE or os.environ.get("MERGETUNE_STORAGE"):
        return ""
    return f" --storage {shlex.quote(str(database_file(database.url) or redacted(database.url)))}"


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM: finish the trial in progress; a second one leaves at once, and loses only that trial."""
    from optimizer.cli.views.progress import FINISHING

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
