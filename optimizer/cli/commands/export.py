"""`mergetune export`: a trial's merge as a file, proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    Storage,
    Weights,
    cache_folder,
    console,
    database_to_read,
    escaped,
    fail,
    loading_libraries,
    parsed_weights,
)

if TYPE_CHECKING:
    from studies.records.study_records import StudyRecords
    from studies.records.values import StoredStudy, StoredTrial

MAX_DIGITS = 9  # of a trial's number: what the database's integers hold


def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", show_default=False)],
    trial: Annotated[str, typer.Option(help="A trial's number, or best.")] = "best",
    weights: Weights = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write. [default: STUDY-trial-N.safetensors]",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the trial's recipe to this YAML file instead of merging.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
) -> None:
    """Write a trial's merge as one .safetensors file, and prove that it is the model that was scored."""
    from rich.progress import BarColumn, Progress, TextColumn

    from optimizer.cli.workers.loading import open_plan
    from optimizer.cli.workers.model_folders import model_folders
    from optimizer.trial.ranking import stopped_after
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import open_study

    database = database_to_read(storage)
    records = open_study(database, study)
    stored = records.study
    row = _chosen(records, trial, parsed_weights(weights))
    if recipe is not None:
        if output is not None:
            fail("give either -o for the merge or --recipe for its recipe alone")
        _write_recipe(stored, row, recipe.expanduser(), force=force)
        return
    if row.estimated:
        told = stopped_after(row, len(stored.spec.suite.items()))
        console.print(f"[yellow]note:[/] trial {row.number} was {told}: its objective is an estimate", soft_wrap=True)
    target = (output or Path(f"{stored.name}-trial-{row.number}.safetensors")).expanduser()
    if target.exists() and not force:
        fail(f"{target} exists: give another name with -o, or --force to replace it")
    with loading_libraries():
        from optimizer.merging.engine.export import export_layout
        from optimizer.merging.files.checkpoint import total_bytes
        from optimizer.outcome.export import Watch, deliver

    plan = open_plan(stored, model_folders(None, cache_folder(None)), trust_times=False)
    total = total_bytes(export_layout(plan.ingredients, row.recipe.dtype).values())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, console=console, transient=True) as progress:
        writing = progress.add_task("writing the merge", total=total)
        comparing = progress.add_task("comparing its tensors", total=total)
        rendering = progress.add_task("rendering from the file", total=len(stored.spec.suite.items()))
        watch = Watch(
            written=lambda size: progress.advance(writing, size),
            compared=lambda size: progress.advance(comparing, size),
            rendered=lambda done: progress.update(rendering, completed=done),
        )
        folder = Artifacts.known(database.url, artifacts)
        done = deliver(records, row, plan, folder, target, overwrite=force, watch=watch)
    console.print(f"proof: {done.proof}", soft_wrap=True)
    if done.difference:
        console.print(f"[yellow]note:[/] {escaped(done.difference)}", soft_wrap=True)
    console.print(f"AutoV2 hash {done.file.sha256[:10]}, {done.file.bytes / 1e6:,.1f} MB")
    console.print(f"wrote {escaped(str(target))} (trial {row.number}, {escaped(row.title)})", soft_wrap=True)


def _write_recipe(stored: StoredStudy, row: StoredTrial, target: Path, *, force: bool) -> None:
    """The trial's recipe with absolute paths and hashes, for `mergetune merge`."""
    from optimizer.merging.engine.export import atomic_file
    from studies.recipe.file import RecipePaths, recipe_text

    if target.suffix.lower() not in {".yaml", ".yml"}:
        fail(f"--recipe writes a YAML file, got {target}: give a name that ends in .yaml")
    spec = stored.spec
    paths = RecipePaths(
        parents={parent.letter: parent.path for parent in stored.parents},
        loras=[lora.path for lora in spec.loras.values()] if row.recipe.loras else [],
        vae=spec.vae,
    )
    comment = f"study {stored.name}, trial {row.number} ({row.title})"
    with atomic_file(target, overwrite=force) as temporary:
        temporary.write_text(recipe_text(row.recipe, paths, comment), encoding="utf-8")
    console.print(f"wrote {escaped(str(target))} (trial {row.number}, {escaped(row.title)})", soft_wrap=True)


def _chosen(records: StudyRecords, trial: str, weights: Mapping[str, float] | None) -> StoredTrial:
    """The trial a user means."""
    from optimizer.cli.views.front import print_choice
    from optimizer.cli.views.report import study_objective
    from optimizer.trial.front import chosen_trial
    from studies.records.stored_trials import load_trial, load_trials

    study = records.study
    if trial != "best":
        if weights is not None:
            fail("give either --trial N or --weights, which choose the best from the front")
        if not trial.isdecimal():
            fail(f"--trial takes a number or best, got {trial!r}")
        row = load_trial(records, int(trial)) if len(trial) <= MAX_DIGITS else None
        if row is None:
            fail(f"study {study.name!r} has no trial {trial}: see `mergetune study show --trials`")
        return row
    rows = load_trials(records)
    winner = None if weights is not None else _winner(records, rows)
    if winner is not None:
        return winner
    best = chosen_trial(rows, study_objective(study), weights)
    if best is None:
        fail(f"study {study.name!r} has no complete trial yet")
    print_choice(rows, study_objective(study), best, weights)
    return best


def _winner(records: StudyRecords, rows: Sequence[StoredTrial]) -> StoredTrial | None:
    """The trial that the final chose, if it still holds; and a line that says so."""
    from optimizer.cli.views.final import final_lines
    from optimizer.cli.views.report import study_objective
    from studies.records.finals import load_final

    final = load_final(records)
    if final is None:
        return None
    if final.is_outdated(rows):
        again = f'mergetune study finish "{records.study.name}"'
        told = f"the final is outdated, so the best observed is taken; hold it again with: {again}"
        console.print(escaped(told), soft_wrap=True)
        return None
    if final.winner is None:
        return None
    verdict = final_lines(final, study_objective(records.study))[0]
    console.print(escaped(f"best is the final's choice, trial {final.winner.number}; {verdict}"), soft_wrap=True)
    return next(row for row in rows if row.number == final.winner.number)
