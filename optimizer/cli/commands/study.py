"""The commands `mergetune study ...`: check, start, resume, finish, list, show, report, stop, pause, priority.

Those of other modules in this folder are added to the group here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.messages import counted
from basics.names import plain, typed_path
from optimizer.cli.commands import doctor, insight, personal, pruning, reporting, rescoring, voting, whole_studies
from optimizer.cli.common import (
    ArtifactFolder,
    AsJson,
    CacheFolder,
    Storage,
    StudyName,
    Weights,
    cache_folder,
    console,
    database_to_change,
    database_to_read,
    escaped,
    loading_libraries,
    parsed_weights,
    print_notes,
    read_spec,
    storage_url,
    stored_url,
)
from optimizer.cli.views.help import Commands
from optimizer.cli.workers.local_workers import Workers, worker_count
from optimizer.cli.workers.model_folders import Moved, digest_cache, require_folders, searched_folders
from optimizer.cli.workers.monitoring import LogJson, MetricsAddress, monitor
from optimizer.cli.workers.notification import Notify, notifying
from studies.system.advice import DEFAULT_STORAGE, advised, quoted

if TYPE_CHECKING:
    from optimizer.runtime.plan import Plan
    from studies.records.values import ParentFile, Status

app = Commands(help="Check, start, resume and inspect studies.")

SpecFile = Annotated[
    Path, typer.Argument(parser=typed_path, metavar="SPEC", help="The study's YAML file.", show_default=False)
]
app.command()(insight.importance)
app.command()(insight.compare)
app.command()(reporting.report)
app.command()(doctor.doctor)
app.command()(pruning.prune_artifacts)
app.command()(rescoring.rescore)
app.command()(whole_studies.delete)
app.command()(whole_studies.rename)
app.command()(whole_studies.clone)
app.command()(voting.vote)
app.command()(voting.votes)
app.command()(personal.train_personal)


@app.command()
def check(
    spec: SpecFile,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="Print how each prompt is read.")] = False,
    timed: Annotated[
        bool,
        typer.Option(
            "--time", help="Render one batch, and print how long the study takes here and how much memory and disk."
        ),
    ] = False,
) -> None:
    """Check a spec without running it: files, architectures, search space, scorers, warm start; and print its cost."""
    from optimizer.runtime.named_files import require_files_of

    loaded = read_spec(spec)
    require_files_of(loaded)
    with loading_libraries():
        from optimizer.cli.views.planning import print_plan
        from optimizer.cli.views.prompts import print_prompts
        from optimizer.cli.workers.loading import hash_with_progress, require_sound_with_progress, usable_device
        from optimizer.errors import NoMemoryError
        from optimizer.outcome.other_study import require_other_study
        from optimizer.outcome.warm_start import find_warm_start
        from optimizer.runtime.plan import make_plan
        from optimizer.runtime.setup import build_scorers, plan_residence, require_plan_memory
        from optimizer.search.recipe_probes import with_recipes

    plan = make_plan(loaded)
    device = usable_device(plan)
    residence = plan_residence(plan, device)
    scorers = build_scorers(plan.spec, device, cache_folder(cache), in_turns=residence.scorers_in_turns)
    try:
        require_plan_memory(plan, device)  # beside the scorers, as when it starts
        lacking = []
    except NoMemoryError as error:  # of this machine, now; the spec is as good as before
        lacking = [f"it cannot start here now: {error}"]
    del scorers
    require_other_study(plan.spec, storage_url(storage))
    print_plan(plan, device, residence)
    print_notes(lacking)
    if prompts:
        print_prompts(plan.prompts)
    require_sound_with_progress(plan)
    by_content = plan.spec.warm_start is not None or plan.spec.probes.recipes  # which identifies their files
    parents = hash_with_progress(plan, digests=digest_cache(cache_folder(cache))) if by_content or timed else ()
    if by_content:
        with_recipes(plan.spec, plan.blueprint(parents))
        found = find_warm_start(plan, parents, device, storage_url(storage), artifacts)
        print_notes(found.notes if found is not None else ())
    if timed:
        _print_timing(plan, parents, cache_folder(cache))
    again = advised(f"study start {quoted(str(spec))}", storage_url(storage))
    console.print(f"[green]The spec is fine.[/] Start it with: {escaped(again)}", soft_wrap=True)


def _print_timing(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> None:
    """Render and score one batch of a study, and print what the study takes here."""
    from optimizer.cli.views.timing import print_timing
    from optimizer.runtime.timing import study_timing, time_batch, timed_batch

    images = len(timed_batch(plan.spec.suite, plan.spec.render.batch_size))
    with console.status(f"loading the models, then rendering {counted(images, 'image')}"):
        batch = time_batch(plan, parents, cache)
    print_timing(plan, batch, study_timing(plan, batch))


Detach = Annotated[
    bool, typer.Option("--detach", help="Leave the work to this database's workers (`mergetune worker`).")
]


@app.command()
def start(
    context: typer.Context,
    spec: SpecFile,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    workers: Workers = "1",
    detach: Detach = False,
    log_json: LogJson = None,
    metrics: MetricsAddress = None,
    notify: Notify = None,
) -> None:
    """Start a study, and work on it until its budget is spent."""
    from optimizer.cli.workers.new_study import register_study, start_study
    from optimizer.cli.workers.session import environments_of_others, work_on

    monitoring = monitor(context, log_json, metrics)
    count, url, caches = worker_count(workers), storage_url(storage), cache_folder(cache)
    if detach:
        records = register_study(spec, url, caches, artifacts)
        console.print(f"{escaped(records.study.name)} is registered; its workers will run it", soft_wrap=True)
        return
    with notifying(notify) as ending:
        records, runtime = start_study(spec, url, caches, artifacts)
        ending.study = records.study.name
        others = environments_of_others(count, runtime, url, artifacts, caches)
        ending.outcome = "ended" if work_on(records, runtime, artifacts, monitoring, others) else "stopped"


@app.command()
def resume(
    context: typer.Context,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of the study, or its spec file.", show_default=False)
    ],
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    trials: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="New budget: trials in total.", show_default=False)
    ] = None,
    patience: Annotated[int | None, typer.Option(min=0, help="New patience; 0: none.", show_default=False)] = None,
    models: Moved = None,
    workers: Workers = "1",
    detach: Detach = False,
    log_json: LogJson = None,
    metrics: MetricsAddress = None,
    notify: Notify = None,
) -> None:
    """Continue a study with the sampler, seed and settings that it began with."""
    from optimizer.cli.workers.loading import load_runtime, open_asked_study, open_unchanged_plan
    from optimizer.cli.workers.session import (
        database_to_work,
        environments_of_others,
        has_ended,
        how_to_go_on,
        patiently,
        work_on,
    )
    from optimizer.cli.workers.study_end import end_study

    count, url, caches = worker_count(workers), storage_url(storage), cache_folder(cache)
    require_folders(models or ())
    file = typed_path(study)
    spec = read_spec(file) if file.is_file() else None
    name = plain(study) if spec is None else spec.study
    monitoring = monitor(context, log_json, metrics)
    database = database_to_work(url, monitoring)
    from studies.files.artifacts import Artifacts
    from studies.records.control import set_status
    from studies.records.stored_studies import open_study, set_budget
    from studies.records.stored_trials import load_trials

    with notifying(None if detach else notify) as ending:
        ending.study = name
        records = patiently(lambda: open_study(database, name), monitoring)
        with loading_libraries():
            from optimizer.cli.views.results import print_repeats

            folders = searched_folders(models, caches)
        budget = records.study.spec.budget if spec is None else spec.budget
        if trials is not None:
            budget = budget.model_copy(update={"trials": trials})
        if patience is not None:
            budget = budget.model_copy(update={"patience": patience or None})
        asked = replace(records.study, spec=records.study.spec.model_copy(update={"budget": budget}))
        ended = not detach and patiently(lambda: has_ended(replace(records, study=asked)), monitoring)
        if not ended:  # else it is said with the results
            print_repeats(records, patiently(lambda: load_trials(records), monitoring))
        # First what may be refused: a spec file, then files that have changed.
        plan = None if spec is None else open_asked_study(records.study, spec, folders, looked_at=detach or ended)
        runtime = None
        if not (detach or ended):
            plan = plan or open_unchanged_plan(records.study, folders)
            runtime = load_runtime(plan, records.study.parents, caches)
        patiently(lambda: set_budget(records, budget), monitoring)
        patiently(lambda: set_status(records, "active"), monitoring)
        records = patiently(lambda: open_study(database, records.study.name), monitoring)
        if detach:
            console.print(f"{escaped(records.study.name)} is active; its workers will run it", soft_wrap=True)
            return
        if runtime is None:
            end_study(records, Artifacts.beside(url, artifacts), how_to_go_on(records, models))
            ending.outcome = "ended"
            return
        others = environments_of_others(count, runtime, url, artifacts, caches)
        ending.outcome = "ended" if work_on(records, runtime, artifacts, monitoring, others, models) else "stopped"


@app.command()
def finish(
    context: typer.Context,
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    models: Moved = None,
    log_json: LogJson = None,
    metrics: MetricsAddress = None,
) -> None:
    """Hold the final now: render the best trials and the parents with prompts or seeds that the search never saw."""
    from optimizer.cli.workers.loading import load_stored_study
    from optimizer.cli.workers.session import database_to_work, retry_for
    from optimizer.cli.workers.study_end import end_study, finish_with_progress

    require_folders(models or ())
    monitoring = monitor(context, log_json, metrics)
    database = database_to_work(storage, monitoring)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.cli.views.progress import OutageReporter
        from optimizer.outcome.final import choose_finalists
        from optimizer.outcome.finishing import require_votes
        from optimizer.search.shortlist import by_value
        from optimizer.trial.objective import Objective
        from optimizer.work.final_claim import holding_final
        from studies.files.artifacts import Artifacts
        from studies.records.stored_trials import load_trials

    objective, trials = Objective.of_study(records.study), load_trials(records)
    choose_finalists(trials, objective, by_value(objective), records.study.spec.final)
    require_votes(records, trials)
    caches = cache_folder(cache)  # after the checks, because loading takes long
    runtime = load_stored_study(records.study, searched_folders(models, caches), caches)
    folder, reporter = Artifacts.beside(database.url, artifacts), monitoring.reporter(records, OutageReporter())
    retry = retry_for(reporter)
    with holding_final(records, retry):
        finish_with_progress(records, runtime, folder, reporter, retry)
    end_study(records, folder)


@app.command(name="list")
def list_studies(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the studies of a database."""
    database = database_to_read(storage)
    with loading_libraries():
        from optimizer.cli.views.results import studies_table

    console.print(studies_table(database))


@app.command()
def show(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    trials: Annotated[bool, typer.Option("--trials", help="List every trial.")] = False,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Show a study's results: parents, best trial, gains with their intervals, final, failures."""
    import json

    database = database_to_read(storage)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.cli.views.results import print_study
        from optimizer.cli.views.study_facts import study_facts
        from optimizer.trial.objective import Objective

    chosen_by = parsed_weights(weights, Objective.of_study(records.study).names)
    if as_json:
        typer.echo(json.dumps(study_facts(records, chosen_by), indent=2, allow_nan=False))
        return
    print_study(records, every_trial=trials, weights=chosen_by)


@app.command()
def migrate(storage: Storage = DEFAULT_STORAGE) -> None:
    """Bring a database to this version's schema, or make its tables; studies and trials stay as they are."""
    from optimizer.cli.workers.session import patiently
    from studies.system.database_url import redacted

    url = stored_url(storage, create=True)
    from studies.records.database import current_schema, open_database, stored_schema
    from studies.records.network_shares import require_local

    wanted = current_schema()
    require_local(url)
    before = patiently(lambda: stored_schema(url))
    patiently(lambda: open_database(url)).close()
    if before is None:
        done = f"was made, with schema {wanted}; no study is in it"
    elif before == wanted:
        done = f"has this version's schema already ({wanted})"
    else:
        done = f"was brought from schema {before} to {wanted}"
    console.print(escaped(f"the study database {redacted(url)} {done}"), soft_wrap=True)


@app.command()
def stop(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Ask the workers of a study to finish their trials and stop."""
    _ask(study, storage, "stopped", "stops after the trials in progress")


@app.command()
def pause(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Ask the workers of a study to finish their trials and wait, or to work on other studies."""
    _ask(study, storage, "paused", "pauses after the trials in progress")


def _ask(study: str, storage: str, status: Status, effect: str) -> None:
    """Set a study's status for its workers to see.

    Args:
        effect: what will happen, for the message.
    """
    database = database_to_change(storage)
    from studies.records.control import set_status
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    set_status(records, status)
    options = " --detach" if status == "paused" else ""
    command = advised(f'study resume "{records.study.name}"', database.url, options)
    console.print(escaped(f"{records.study.name} {effect}; continue with: {command}"), soft_wrap=True)


@app.command(context_settings={"ignore_unknown_options": True})  # otherwise -3 would be an option
def priority(
    study: StudyName,
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", min=-1000, max=1000, help="0 is normal; higher numbers come first.")
    ],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Set which study comes first for workers that serve several."""
    database = database_to_change(storage)
    from studies.records.control import set_priority
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    set_priority(records, number)
    console.print(f"{escaped(records.study.name)} has priority {number}")
