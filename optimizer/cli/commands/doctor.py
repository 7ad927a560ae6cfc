"""`mergetune study doctor`: find what is wrong in a database, and repair it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.names import plain
from optimizer.cli.common import (
    ArtifactFolder,
    AsJson,
    Storage,
    console,
    database_to_change,
    database_to_read,
    escaped,
    loading_libraries,
    storage_url,
)
from studies.system.advice import DEFAULT_STORAGE, advised, quoted

if TYPE_CHECKING:
    from optimizer.upkeep.doctor import Diagnosis, Finding

PROBLEMS_LEFT = 1  # exit code


def doctor(
    study: Annotated[
        str | None,
        typer.Argument(parser=plain, metavar="[STUDY]", help="Name of the study. [default: all]", show_default=False),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    mend: Annotated[bool, typer.Option("--mend", help="Repair what can be repaired.")] = False,
    as_json: AsJson = False,
) -> int:
    """Find what crashes have left in a database, and repair it: stale trials, dead workers, missing files."""
    import json

    url = storage_url(storage)
    database = database_to_change(url) if mend else database_to_read(url)
    from studies.records.stored_studies import list_studies, open_study

    chosen = list_studies(database) if study is None else [open_study(database, study)]
    with loading_libraries():
        from optimizer.upkeep.doctor import diagnose
        from studies.files.artifacts import Artifacts

    diagnosis = diagnose(database, chosen, Artifacts.existing(url, artifacts), mend=mend)
    if as_json:
        typer.echo(json.dumps(_facts(diagnosis), indent=2, allow_nan=False))
    else:
        _print(diagnosis, None if mend else _mending(study, url, artifacts))
    return 0 if diagnosis.healthy else PROBLEMS_LEFT


def _mending(study: str | None, url: str, artifacts: str | None) -> str:
    """Return the command that mends what was found."""
    name = "" if study is None else f" {quoted(study)}"
    folder = "" if artifacts is None else f" --artifacts {quoted(artifacts)}"
    return advised(f"study doctor{name} --mend", url, folder)


def _facts(diagnosis: Diagnosis) -> dict[str, Any]:
    def as_json(findings: Sequence[Finding], *, mended: bool) -> list[dict[str, Any]]:
        return [
            {
                "kind": finding.kind,
                "study": finding.study,
                "trial": finding.trial,
                "words": finding.words(mended=mended),
                "can_mend": finding.remedy is not None,
                "by_itself": finding.by_itself,
            }
            for finding in findings
        ]

    mended, left = as_json(diagnosis.mended, mended=True), as_json(diagnosis.left, mended=False)
    return {"healthy": diagnosis.healthy, "mended": mended, "left": left}


def _print(diagnosis: Diagnosis, mending: str | None) -> None:
    """Print the findings.

    Args:
        mending: the command that mends what can be mended; None after it.
    """
    for finding in diagnosis.mended:
        console.print(f"[green]mended:[/] {escaped(_line(finding, mended=True))}", soft_wrap=True)
    for finding in diagnosis.left:
        label = "[yellow]left behind:[/]" if finding.by_itself else "[red]wrong:[/]"
        console.print(f"{label} {escaped(_line(finding, mended=False))}", soft_wrap=True)
    if diagnosis.healthy:
        console.print("Nothing is wrong." if not diagnosis.mended else "Nothing else is wrong.")
    if any(finding.by_itself for finding in diagnosis.left):
        console.print("What killed processes left behind, the next worker removes or goes on with.", soft_wrap=True)
    if mending is not None and any(finding.remedy is not None for finding in diagnosis.left):
        console.print(escaped(f"Repair it with: {mending}"), soft_wrap=True)


def _line(finding: Finding, *, mended: bool) -> str:
    where = [] if finding.study is None else [finding.study]
    where += [] if finding.trial is None else [f"trial {finding.trial}"]
    return f"{', '.join([finding.kind, *where])}: {finding.words(mended=mended)}"
