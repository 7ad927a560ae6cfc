"""`mergetune demo`: the built-in demo study, from its start to a proven export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from basics.names import typed_path
from optimizer.cli.common import console, escaped, storage_url
from studies.system.advice import advised

SPEC = Path("demo") / "demo.yaml"


def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=typed_path, metavar="FOLDER", help="Folder for the study and the exported file."
        ),
    ] = Path("demo-run"),
) -> None:
    """Run the built-in demo study, export the winner, and print where its report and the other results are."""
    import studies
    from optimizer.cli.commands.export import export
    from optimizer.cli.workers.loading import load_stored_study
    from optimizer.cli.workers.model_folders import searched_folders
    from optimizer.cli.workers.new_study import start_study
    from optimizer.cli.workers.session import work_on
    from studies.files.artifacts import SheetKind, report_name, sheet_name
    from studies.records.database import open_database
    from studies.records.stored_studies import list_studies
    from studies.spec.study import load_spec

    output.mkdir(parents=True, exist_ok=True)
    spec = Path(studies.__file__).parent / SPEC
    file, cache = output / "demo.db", (output / "cache").resolve()
    storage = storage_url(str(file))
    name = load_spec(spec).study
    database = open_database(storage)
    records = next((each for each in list_studies(database) if each.study.name == name), None)
    if records is None:
        records, runtime = start_study(spec, storage, cache)
    else:
        runtime = load_stored_study(records.study, searched_folders([spec.parent], cache), cache)
    if not work_on(records, runtime, None):
        return
    winner = output / "best-merge.safetensors"
    export(name, output=winner, force=True, storage=storage, models=[spec.parent])
    console.rule()
    console.print(f"study database  {escaped(str(file))}", soft_wrap=True)
    folder, key = output / "demo-artifacts", records.study.key
    sheets: dict[str, SheetKind] = {"contact sheet": "best", "of the final": "final"}
    for title, shows in sheets.items():
        if (sheet := folder / sheet_name(name, key, shows)).exists():
            console.print(f"{title:<15} {escaped(str(sheet))}", soft_wrap=True)
    console.print(f"report          {escaped(str(folder / report_name(name, key)))}", soft_wrap=True)
    console.print(f"the best merge  {escaped(str(winner))}", soft_wrap=True)
    shown = advised("dashboard", storage)
    console.print(f"dashboard       {escaped(shown)}", soft_wrap=True)
