"""`mergetune study prune-artifacts`: make room in the artifact store."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from basics.messages import counted
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    StudyName,
    console,
    database_to_change,
    database_to_read,
    escaped,
    loading_libraries,
)
from studies.system.advice import DEFAULT_STORAGE


class Keep(StrEnum):
    """The trials whose renders stay."""

    best = "best"
    none = "none"


def prune_artifacts(
    study: StudyName,
    keep: Annotated[
        Keep, typer.Option(help="The trials whose renders stay: the parents and the best, or none.")
    ] = Keep.best,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
) -> None:
    """Remove renders, and files that belong to no trial; contact sheets, scores and features stay."""
    database = database_to_read(storage) if dry_run else database_to_change(storage)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.trial.objective import Objective
        from optimizer.upkeep.pruning import find_waste, remove_waste
        from studies.files.artifacts import Artifacts

    store = (Artifacts.existing if dry_run else Artifacts.beside)(database.url, artifacts)
    waste = find_waste(records, store, Objective.of_study(records.study), keep.value)
    if not dry_run:
        remove_waste(records, store, waste)
    console.print(
        f"{'would remove' if dry_run else 'removed'} {counted(len(waste.renders), 'render')} of "
        f"{counted(len(waste.trials), 'trial')}{f', {len(waste.final)} of the final,' if waste.final else ''} and "
        f"{counted(len(waste.orphans), 'file that belongs', 'files that belong')} to no trial: "
        f"{waste.bytes / 1e6:,.1f} MB in {escaped(store.location)}",
        soft_wrap=True,
    )
