"""`mergetune study rescore`: apply other scorers or weights to the stored renders of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import plain, typed_path
from optimizer.cli.common import (
    ArtifactFolder,
    CacheFolder,
    Storage,
    cache_folder,
    console,
    escaped,
    interactive,
    loading_libraries,
    print_notes,
    quiet_optuna,
    read_spec,
    storage_url,
)
from optimizer.cli.workers.model_folders import Moved, require_folders, searched_folders
from studies.system.advice import DEFAULT_STORAGE, advised

if TYPE_CHECKING:
    from optimizer.outcome.other_study import Other
    from optimizer.outcome.rescore import Rescorable
    from optimizer.runtime.plan import Plan
    from optimizer.trial.objective import Objective
    from studies.records.study_records import StudyRecords
    from studies.records.values import ParentFile, StoredTrial


def rescore(
    study: Annotated[
        str, typer.Argument(parser=plain, metavar="STUDY", help="The study with the images.", show_default=False)
    ],
    spec: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="SPEC", help="The new study's YAML file.", show_default=False)
    ],
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    models: Moved = None,
) -> None:
    """Score the stored renders of a study with other scorers or weights, as a new study; nothing is rendered."""
    from optimizer.cli.workers.loading import hash_with_progress
    from optimizer.cli.workers.session import database_to_work

    url, caches = storage_url(storage), cache_folder(cache)
    wanted = read_spec(spec)
    require_folders(models or ())
    database = database_to_work(url)
    quiet_optuna()
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import open_study, require_new

    before = open_study(database, study)
    with loading_libraries():
        from optimizer.cli.views.planning import print_plan
        from optimizer.cli.views.results import print_study
        from optimizer.outcome.other_study import Other
        from optimizer.outcome.rescore import find_rescorable, require_rescorable, require_same_images
        from optimizer.runtime.device_choice import choose_device
        from optimizer.runtime.plan import make_plan

    require_rescorable(wanted, study)
    other = Other(records=before, artifacts=Artifacts.existing(url, artifacts))
    found = find_rescorable(before)
    folders = searched_folders(models, caches)
    plan = make_plan(folders.locate_known(wanted, before.study))
    require_new(database, plan.spec.study)
    print_plan(plan, choose_device(plan.spec.render.device))
    parents = hash_with_progress(plan, digests=folders.digests)
    require_same_images(plan, parents, before.study)
    records = _store(found, plan, parents, other, artifacts, caches)
    print_study(records, every_trial=False)
    for line in _verdict(before, records):
        console.print(escaped(line), soft_wrap=True)
    again = advised(f'study resume "{records.study.name}"', database.url)
    console.print(escaped(f"Continue with: {again}"), soft_wrap=True)


def _store(
    found: Rescorable,
    plan: Plan,
    parents: tuple[ParentFile, ...],
    other: Other,
    artifacts: str | Path | None,
    cache: Path,
) -> StudyRecords:
    """Score the trials again, and store the new study with them, their gains and notes."""
    from optimizer.cli.workers.new_study import NewStudy
    from optimizer.outcome.rescore import rescored
    from optimizer.runtime.device_choice import choose_device
    from optimizer.runtime.setup import load_scorers
    from optimizer.trial.evaluation import scoring_of
    from optimizer.work.gain_recorder import GainRecorder
    from studies.files.artifacts import Artifacts
    from studies.records.cached_reads import CachedTrials

    database, device = other.records.database, choose_device(plan.spec.render.device)
    with console.status("loading scorers"):
        plan, scorers = load_scorers(plan, parents, device, cache)
    scoring = scoring_of(scorers, plan.spec.suite, plan.prediction)
    with _progress(len(found.trials)) as advance:
        warm_start = rescored(found, plan, parents, other, scoring, device, advance)
    print_notes(warm_start.notes)
    with console.status("storing the study"):
        new = NewStudy(database=database, plan=plan, parents=parents, warm_start=warm_start, artifacts=artifacts)
        records = new.store(plan)
        store = Artifacts.beside(database.url, artifacts)
        GainRecorder(records, CachedTrials(records), plan, scoring, store).fill_gains()
    return records


@contextmanager
def _progress(trials: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring trials"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not interactive()) as progress:
        task = progress.add_task("", total=trials)
        yield lambda: progress.advance(task)


def _verdict(before: StudyRecords, records: StudyRecords) -> Iterator[str]:
    """Yield the best by the new objective, then the new value of the best by the old one; one line each."""
    from optimizer.trial.best import load_best
    from optimizer.trial.objective import Objective
    from studies.records.stored_trials import load_trials

    objective = Objective.of_study(records.study)
    best, old = load_best(records, objective), load_best(before, Objective.of_study(before.study))
    if best is None or old is None:  # racing stopped every trial that is there
        return
    yield f"best by the new objective: {_in_words(best.trial, objective)}"
    named = f"best by the old objective ({old.reason})"
    source = f"{before.study.name} trial {old.trial.number}"
    here = next((trial for trial in load_trials(records) if trial.source == source), None)
    if here is None:
        yield f"{named}: trial {old.trial.number} of {before.study.name}, which is left out"
    elif here.number == best.trial.number:
        yield f"{named}: the same"
    else:
        yield f"{named}: {_in_words(here, objective)}"


def _in_words(trial: StoredTrial, objective: Objective) -> str:
    from optimizer.trial.gain_text import gain_text

    values = [
        f"{name} {trial.objectives[name]:.4g}"
        + (f", gain {gain_text(trial.gains[name])}" if name in trial.gains else "")
        for name in objective.names
    ]
    return f"trial {trial.number} ({trial.title}), {'; '.join(values)}"
