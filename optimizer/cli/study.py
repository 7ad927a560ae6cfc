"""`mergetune study ...`: check, start, resume, finish, list, show, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli import insight, pruning
from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    CacheFolder,
    Storage,
    Weights,
    cache_folder,
    console,
    escaped,
    parsed_weights,
    storage_url,
)

app = typer.Typer(help="Check, start, resume and look at studies.", no_args_is_help=True)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The study's YAML file.", show_default=False)]
app.command()(insight.importance)
app.command()(insight.compare)
app.command()(pruning.prune_artifacts)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", show_default=False)]


@app.command()
def check(
    spec: SpecFile,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Validate a spec without running it: files, architectures, space, scorers, cost, what it begins with."""
    from optimizer.cli.planning import print_notes, print_plan
    from optimizer.cli.work import hashed
    from optimizer.search.recipe_probes import with_recipes
    from optimizer.setup import build_scorers, choose_device, make_plan, render_dtype
    from optimizer.warm_start import find_warm_start, require_other_study
    from studies.spec import load_spec

    plan = make_plan(load_spec(spec))
    device = choose_device(plan.spec.render.device)
    render_dtype(plan.spec.render, device)
    build_scorers(plan.spec, device, cache_folder(cache))
    require_other_study(plan.spec, storage_url(storage))
    print_plan(plan, device)
    if plan.spec.warm_start is not None or plan.spec.probes.recipes:  # their files are known by their content
        parents = hashed(plan, ())
        with_recipes(plan.spec, plan.blueprint(parents))
        found = find_warm_start(plan, parents, device, storage_url(storage), artifacts)
        print_notes(found.notes if found is not None else ())
    console.print("[green]The spec is fine.[/] Start it with: mergetune study start " + escaped(str(spec)))


@app.command()
def start(
    spec: SpecFile,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Begin a study and work on it until its budget is spent."""
    from optimizer.cli.work import begun, work_on

    work_on(*begun(spec, storage_url(storage), cache_folder(cache), artifacts), artifacts)


@app.command()
def resume(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of the study, or its spec file.", show_default=False)
    ],
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    trials: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="A new total budget of trials.", show_default=False)
    ] = None,
    patience: Annotated[int | None, typer.Option(min=0, help="A new patience; 0 for none.", show_default=False)] = None,
) -> None:
    """Go on with a study, with the sampler, seed and settings it began with."""
    from optimizer.cli.work import resumed, work_on
    from optimizer.setup import check_changed
    from studies.database import open_database
    from studies.results import load_study, request_stop, set_budget
    from studies.spec import load_spec

    database = open_database(storage_url(storage), create=False)
    if Path(study).is_file():
        spec = load_spec(Path(study))
        stored = load_study(database, spec.study)
        check_changed(stored.spec, spec)
        budget = spec.budget
    else:
        stored = load_study(database, study)
        budget = stored.spec.budget
    machine = resumed(stored, cache_folder(cache))  # before anything is changed: it may be refused
    if trials is not None:
        budget = budget.model_copy(update={"trials": trials})
    if patience is not None:
        budget = budget.model_copy(update={"patience": patience or None})
    stored = set_budget(database, stored, budget)
    request_stop(database, stored, stop=False)
    work_on(database, stored, machine, artifacts)


@app.command()
def finish(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Hold the final now: the best trials and the parents on prompts or seeds that the search never saw."""
    from optimizer.cli.final import finish_study
    from optimizer.cli.report import print_study, study_objective
    from optimizer.cli.work import resumed
    from optimizer.finals import choose_finalists
    from optimizer.insight.ranking import by_value
    from studies.artifacts import Artifacts
    from studies.database import open_database
    from studies.results import load_study, load_trials

    database = open_database(storage_url(storage), create=False)
    stored = load_study(database, study)
    objective = study_objective(stored)
    choose_finalists(load_trials(database, stored), objective, by_value(objective), stored.spec.final)
    machine = resumed(stored, cache_folder(cache))  # only now, as loading takes its time
    finish_study(database, stored, machine, Artifacts.beside(database.url, artifacts))
    print_study(database, stored, every_trial=False)


@app.command(name="list")
def list_studies(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the studies of a database."""
    from optimizer.cli.report import studies_table
    from studies.database import open_database

    console.print(studies_table(open_database(storage_url(storage), create=False)))


@app.command()
def show(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    trials: Annotated[bool, typer.Option("--trials", help="List every trial.")] = False,
    weights: Weights = None,
) -> None:
    """Show a study: parents, best trial, gain with its interval, final, failures."""
    from optimizer.cli.report import print_study
    from studies.database import open_database
    from studies.results import load_study

    database = open_database(storage_url(storage), create=False)
    print_study(database, load_study(database, study), every_trial=trials, weights=parsed_weights(weights))


@app.command()
def stop(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Ask the workers of a study to finish their trial and leave."""
    from studies.database import open_database
    from studies.results import load_study, request_stop

    database = open_database(storage_url(storage), create=False)
    stored = load_study(database, study)
    request_stop(database, stored, stop=True)
    console.print(
        f"{escaped(stored.name)} stops after the trials in progress; "
        f'go on with: mergetune study resume "{escaped(stored.name)}"',
        soft_wrap=True,
    )
