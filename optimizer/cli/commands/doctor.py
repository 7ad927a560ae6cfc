"""`mergetune study doctor`: find what is wrong in a database, and repair it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    AsJson,
    Storage,
    console,
    database_to_change,
    database_to_read,
    escaped,
    storage_url,
)

if TYPE_CHECKING:
    from optimizer.upkeep.doctor import Diagnosis, Finding

PROBLEMS_LEFT = 1  # exit code


def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Name of the study. \\[default: all]", show_default=False)
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    mend: Annotated[bool, typer.Option("--mend", help="Repair what can be repaired.")] = False,
    as_json: AsJson = False,
) -> int:
    """Find what crashes have left in a database, and repair it: stale trials, dead workers, missing files."""
    import json

    from optimizer.upkeep.doctor import diagnose
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import list_studies, open_study

    url = storage_url(storage)
    database = database_to_change(url) if mend else database_to_read(url)
    chosen = list_studies(database) if study is None else [open_study(database, study)]
    diagnosis = diagnose(database, chosen, Artifacts.existing(url, artifacts), mend=mend)
    if as_json:
        typer.echo(json.dumps(_facts(diagnosis), indent=2, allow_nan=False))
    else:
        _print(diagnosis, mend=mend)
    return PROBLEMS_LEFT if diagnosis.left else 0


def _facts(diagnosis: Diagnosis) -> dict[str, Any]:
    def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
        return [
            {
                "kind": finding.kind,
                "study": finding.study,
                "trial": finding.trial,
                "words": finding.words,
                "can_mend": finding.can_mend,
            }
            for finding in findings
        ]

    return {"healthy": not diagnosis.left, "mended": as_json(diagnosis.mended), "left": as_json(diagnosis.left)}


def _print(diagnosis: Diagnosis, *, mend: bool) -> None:
    for finding in diagnosis.mended:
        console.print(f"[green]mended:[/] {escaped(_line(finding))}", soft_wrap=True)
    for finding in diagnosis.left:
        console.print(f"[red]wrong:[/] {escaped(_line(finding))}", soft_wrap=True)
    if not diagnosis.left:
        console.print("Nothing is wrong." if not diagnosis.mended else "Nothing else is wrong.")
    elif not mend and any(finding.can_mend for finding in diagnosis.left):
        console.print("Repair it with: mergetune study doctor --mend", soft_wrap=True)


def _line(finding: Finding) -> str:
    where = [] if finding.study is None else [finding.study]
    where += [] if finding.trial is None else [f"trial {finding.trial}"]
    return f"{finding.kind}, {', '.join(where)}: {finding.words}" if where else f"{finding.kind}: {finding.words}"
