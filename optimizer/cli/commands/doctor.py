"""`mergetune study doctor`: what is wrong in a database, and mending it."""

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

SICK = 1  # exit code while there is something wrong


def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Name of the study. [default: all]", show_default=False)
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    mend: Annotated[bool, typer.Option("--mend", help="Mend what can be mended.")] = False,
    as_json: AsJson = False,
) -> int:
    """Find what is wrong in a database after crashes, and mend it: stale trials, dead workers, missing files."""
    import json

    from optimizer.upkeep.doctor import diagnose
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import list_studies, open_study

    url = storage_url(storage)
    database = database_to_change(url) if mend else database_to_read(url)
    chosen = list_studies(database) if study is None else [open_study(database, study)]
    diagnosis = diagnose(database, chosen, Artifacts.known(url, artifacts), mend=mend)
    if as_json:
        typer.echo(json.dumps(_facts(diagnosis), indent=2, allow_nan=False))
    else:
        _print(diagnosis, mend=mend)
    return SICK if diagnosis.left else 0


def _facts(diagnosis: Diagnosis) -> dict[str, Any]:
    def told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
        return [
            {"kind": row.kind, "study": row.study, "trial": row.trial, "words": row.words, "can_mend": row.can_mend}
            for row in findings
        ]

    return {"healthy": not diagnosis.left, "mended": told(diagnosis.mended), "left": told(diagnosis.left)}


def _print(diagnosis: Diagnosis, *, mend: bool) -> None:
    for row in diagnosis.mended:
        console.print(f"[green]mended:[/] {escaped(_line(row))}", soft_wrap=True)
    for row in diagnosis.left:
        console.print(f"[red]wrong:[/] {escaped(_line(row))}", soft_wrap=True)
    if not diagnosis.left:
        console.print("Nothing is wrong." if not diagnosis.mended else "Nothing else is wrong.")
    elif not mend and any(row.can_mend for row in diagnosis.left):
        console.print("Mend it with: mergetune study doctor --mend", soft_wrap=True)


def _line(row: Finding) -> str:
    where = [] if row.study is None else [row.study]
    where += [] if row.trial is None else [f"trial {row.trial}"]
    return f"{row.kind}, {', '.join(where)}: {row.words}" if where else f"{row.kind}: {row.words}"
