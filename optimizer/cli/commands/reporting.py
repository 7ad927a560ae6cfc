"""`mergetune study report`: the results of a study as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    StudyName,
    Weights,
    console,
    database_to_read,
    escaped,
    fail,
    loading_libraries,
    output_option,
    parsed_weights,
)
from studies.system.advice import DEFAULT_STORAGE


def report(
    study: StudyName,
    output: Annotated[
        Path | None,
        output_option("FILE.html", "The file to write. [default: STUDY-report.html]"),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Pictures as they are stored (PNG), however large the file gets.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    weights: Weights = None,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
) -> None:
    """Write a study's report: one HTML page with the verdict, the pictures, the figures and every setting."""
    from optimizer.merging.files.targets import refuse_target

    target = output or Path(f"{study}-report.html")
    if target.suffix.lower() not in {".html", ".htm"}:
        fail(f"-o writes an HTML page, got {target}: give a name that ends in .html")
    database = database_to_read(storage)
    from optimizer.trial.objective import Objective
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    objective = Objective.of_study(records.study)
    chosen_by = parsed_weights(weights, objective.names)
    refuse_target(target, overwrite=force)
    with loading_libraries():
        from optimizer.merging.engine.export import write_file
        from optimizer.report.page import report_page

    page = report_page(records, objective, Artifacts.existing(database.url, artifacts), weights=chosen_by, full=full)
    content = page.encode()
    write_file(target, content, overwrite=force)
    console.print(f"wrote {escaped(str(target))} ({len(content) / 1e6:,.1f} MB)", soft_wrap=True)
