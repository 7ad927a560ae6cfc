"""`mergetune export`: write a trial's merge to a file, and prove it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import typed_path
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    StudyName,
    Weights,
    cache_folder,
    console,
    database_to_read,
    escaped,
    fail,
    loading_libraries,
    output_option,
    parsed_weights,
    print_notes,
    yaml_target,
)
from optimizer.cli.workers.model_folders import Moved, require_folders, searched_folders
from studies.system.advice import DEFAULT_STORAGE, advised

if TYPE_CHECKING:
    from optimizer.merging.engine.export import Exported
    from optimizer.outcome.export import Delivery
    from optimizer.runtime.plan import Plan
    from optimizer.trial.best import Best
    from studies.files.artifacts import Artifacts
    from studies.records.study_records import StudyRecords
    from studies.records.values import StoredStudy, StoredTrial

MAX_DIGITS = 9  # of a trial's number: more may not fit into the database's integers


def export(
    study: StudyName,
    trial: Annotated[str, typer.Option(metavar="N|best", help="The trial to export.")] = "best",
    weights: Weights = None,
    output: Annotated[
        Path | None,
        output_option("FILE", "The file to write. [default: STUDY-trial-N.safetensors]"),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path,
            metavar="FILE",
            help="Only write the trial's recipe, to this YAML file.",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Write a model card beside the file, with example pictures and a workflow for ComfyUI."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace an existing file, and export a merge that lost to a parent in the final."
        ),
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    models: Moved = None,
) -> None:
    """Write a trial's merge as a .safetensors file, and prove that it is the model that was scored."""
    require_folders(models or ())
    database = database_to_read(storage)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.cli.views.results import print_repeats
        from optimizer.cli.workers.loading import open_plan
        from optimizer.merging.files.targets import refuse_target
        from optimizer.trial.objective import Objective
        from optimizer.trial.ranking import stopped_after
        from studies.files.artifacts import Artifacts
        from studies.recipe.recipe import refuse_other_draws

    stored = records.study
    chosen = _chosen(records, trial, parsed_weights(weights, Objective.of_study(stored).names), force=force)
    against = _objections(records, chosen)
    print_repeats(records, [chosen])
    if recipe is not None:
        if output is not None:
            fail("give either -o for the merge or --recipe for only its recipe, not both")
        if card:
            fail("--card describes an exported file, and --recipe exports none: leave one of them out")
        _write_recipe(stored, chosen, recipe, models, force=force)
        print_notes(against)
        return
    refuse_other_draws(chosen.recipe.random_operations)
    if chosen.estimated:
        stopped = stopped_after(chosen, len(stored.spec.suite.items()))
        print_notes([f"trial {chosen.number} was {stopped}: its objective is an estimate"])
    target = output or Path(f"{stored.name}-trial-{chosen.number}.safetensors")
    refuse_target(target, overwrite=force)
    if card:
        from optimizer.outcome.model_card.names import CardFiles

        CardFiles.beside(target).refuse(overwrite=force)
    plan = open_plan(stored, searched_folders(models, cache_folder(None)), read_all=True)
    folder = Artifacts.existing(database.url, artifacts)
    delivery = _deliver(records, chosen, plan, folder, target, force=force)
    console.print(f"proof: {delivery.proof}", soft_wrap=True)
    print_notes([*delivery.file.notes, *([delivery.difference] if delivery.difference else [])])
    console.print(f"AutoV2 hash {delivery.file.sha256[:10]}, {delivery.file.bytes / 1e6:,.1f} MB")
    console.print(f"wrote {escaped(str(target))} (trial {chosen.number}, {escaped(chosen.title)})", soft_wrap=True)
    if card:
        _write_card(records, chosen, plan, folder, delivery.file, force=force)
    print_notes(against)  # last, where they are seen


def _deliver(
    records: StudyRecords, trial: StoredTrial, plan: Plan, artifacts: Artifacts, target: Path, *, force: bool
) -> Delivery:
    """Write the merge and prove it, with progress."""
    from rich.progress import BarColumn, Progress, TextColumn

    with loading_libraries():
        from optimizer.merging.engine.export import export_layout
        from optimizer.merging.files.checkpoint import total_bytes
        from optimizer.outcome.export import Watch, deliver

    total = total_bytes(export_layout(plan.ingredients, trial.recipe.dtype).values())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, console=console, transient=True) as progress:
        writing = progress.add_task("writing the merge", total=total)
        comparing = progress.add_task("comparing its tensors", total=total)
        rendering = progress.add_task("rendering from the file", total=len(plan.spec.suite.items()))
        watch = Watch(
            written=lambda size: progress.advance(writing, size),
            compared=lambda size: progress.advance(comparing, size),
            rendered=lambda done: progress.update(rendering, completed=done),
        )
        return deliver(records, trial, plan, artifacts, target, overwrite=force, watch=watch)


def _write_card(
    records: StudyRecords, trial: StoredTrial, plan: Plan, artifacts: Artifacts, file: Exported, *, force: bool
) -> None:
    from optimizer.outcome.model_card.verdict import Judged
    from optimizer.outcome.model_card.writing import write_card
    from optimizer.trial.best import load_results

    trials, final = load_results(records)
    judged = Judged(trial=trial, trials=trials, final=final, objective=plan.objective)
    written = write_card(records, judged, plan, artifacts, file, overwrite=force)
    console.print(f"wrote {escaped(str(written.page))}", soft_wrap=True)
    for path in written.beside:
        console.print(f"wrote {escaped(str(path))}", soft_wrap=True)
    print_notes(written.notes)


def _objections(records: StudyRecords, chosen: StoredTrial) -> tuple[str, ...]:
    """Return what speaks against taking a merge, one text each."""
    from optimizer.trial.best import load_results, objections
    from optimizer.trial.objective import Objective

    trials, final = load_results(records)
    return objections(chosen, trials, final, Objective.of_study(records.study))


def _write_recipe(
    stored: StoredStudy, trial: StoredTrial, target: Path, models: Sequence[Path] | None, *, force: bool
) -> None:
    """Write the trial's recipe with absolute paths and hashes, for `mergetune merge`.

    Args:
        models: folders in which files that have moved are found; None leaves every path as the study names it.
    """
    from optimizer.merging.engine.export import write_file
    from studies.recipe.file import RecipePaths, recipe_text

    yaml_target(target, "--recipe")
    spec, parents = stored.spec, stored.parents
    if models:
        spec, parents = searched_folders(models, cache_folder(None)).locate(stored, scorers=False)
    paths = RecipePaths(
        parents={parent.letter: parent.path for parent in parents},
        loras=[lora.path for lora in spec.loras.values()] if trial.recipe.loras else [],
        vae=spec.vae,
    )
    comment = f"study {stored.name}, trial {trial.number} ({trial.title})"
    text = recipe_text(trial.recipe, paths, comment).encode()
    write_file(target, text, overwrite=force, option="--recipe")
    console.print(f"wrote {escaped(str(target))} (trial {trial.number}, {escaped(trial.title)})", soft_wrap=True)


def _chosen(records: StudyRecords, trial: str, weights: Mapping[str, float] | None, *, force: bool) -> StoredTrial:
    """Return the trial that `--trial` or `--weights` asks for."""
    from optimizer.cli.views.front import print_choice
    from optimizer.outcome.in_words import best_claim
    from optimizer.outcome.next_commands import finish_command
    from optimizer.trial.best import best_of, load_results
    from optimizer.trial.objective import Objective
    from studies.records.stored_trials import load_trial

    study = records.study
    if trial != "best":
        if weights is not None:
            fail("give either --trial N or --weights, which choose the best of the front, not both")
        if not trial.isdecimal():
            fail(f"--trial takes a number or best, got {trial!r}")
        numbered = load_trial(records, int(trial)) if len(trial) <= MAX_DIGITS else None
        if numbered is None:
            fail(f"study {study.name!r} has no trial {trial}: see `{_showing(records)} --trials`")
        return numbered
    objective = Objective.of_study(study)
    trials, final = load_results(records)
    best = best_of(trials, final, objective, weights)
    if best is None:
        fail(f"study {study.name!r} has no complete trial yet: see `{_showing(records)}`")
    if final is not None and final.is_outdated(trials) and weights is None and objective.terms:
        outdated = "the final is outdated, so the best observed trial is exported; hold it again with: "
        console.print(escaped(outdated + finish_command(records)), soft_wrap=True)
    chosen = _merge_of(best, force=force)
    console.print(f"best: {escaped(best_claim(best, objective))}", soft_wrap=True)
    print_choice(trials, objective, best)
    return chosen


def _merge_of(best: Best, *, force: bool) -> StoredTrial:
    """Return the trial to export; a merge that lost in the final, or beside a better parent, only if asked for."""
    if best.refusal is None:
        return best.trial
    merge = best.merge
    if merge is None:
        fail(f"{best.refusal}; there is no merge to export: choose a trial with --trial N")
    if not force:
        fail(f"{best.refusal}; to export trial {merge.number} all the same, give --trial {merge.number} or --force")
    return merge


def _showing(records: StudyRecords) -> str:
    return advised(f'study show "{records.study.name}"', records.database.url)
