"""`mergetune suite`: prompts and settings for a spec's suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import typed_path
from optimizer.cli.common import console, errors, escaped, fail
from optimizer.cli.views.help import Commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studies.spec.published.settings import PublishedSettings

app = Commands(help="Prompts and settings for the suite of a spec.")


@app.callback()
def suite() -> None:
    """Prompts and settings for the suite of a spec."""


@app.command("import")
def import_folder(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="DIR", help="Folder of pictures or texts with settings.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", parser=typed_path, metavar="FILE", help="The YAML file to write.", show_default=False
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a `suite:` section with the settings of published pictures: PNG, JPEG, WebP and .txt files."""
    from basics.files import replacing
    from studies.spec.published.files import SUFFIXES, read_published
    from studies.spec.published.items import suite_section
    from studies.spec.published.settings import PublishedError

    if not folder.is_dir():
        fail(f"{folder} is no folder: give a folder of pictures that have their settings in them")
    if output.exists() and not force:
        fail(f"{output} exists already: give another name, or --force to replace it")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        fail(f"{folder} has no PNG, JPEG, WebP or .txt file: give a folder of pictures")
    found: list[tuple[str, PublishedSettings]] = []
    for path in files:
        try:
            found.append((path.name, read_published(path)))
        except PublishedError as error:
            errors.print(f"[yellow]left out:[/] {escaped(' '.join(str(error).split()))}")
    kept = _of_one_kind(found)
    if not kept:
        fail(f"none of the {len(files)} files in {folder} has settings that can be used: {output} is not written")
    with replacing(output, overwrite=force) as part:
        part.write_text(suite_section(kept), encoding="utf-8")
    for name, settings in kept:
        for note in settings.notes:
            console.print(f"[yellow]note:[/] {escaped(name)}: {escaped(note)}")
    console.print(escaped(f"wrote {output}: {len(kept)} of {len(files)} files"))


def _of_one_kind(found: Sequence[tuple[str, PublishedSettings]]) -> list[tuple[str, PublishedSettings]]:
    """Keep the files with the most common prompt syntax and ENSD, which a suite has one of, each render once."""
    kinds = [(settings.syntax, settings.ensd) for _, settings in found]
    if not kinds:
        return []
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    kept: list[tuple[str, PublishedSettings]] = []
    seen: dict[PublishedSettings, str] = {}
    for (name, settings), kind in zip(found, kinds, strict=True):
        render = replace(settings, notes=())
        why = f"the same render as {seen[render]}" if render in seen else ""
        if kind != usual:
            why = (
                f"its prompt syntax is {kind[0]} and its ENSD {kind[1]}, and a suite has one of each (here {usual[0]}, "
                f"{usual[1]}): import it from a folder of its own"
            )
        if why:
            errors.print(f"[yellow]left out:[/] {escaped(name)}: {escaped(why)}")
            continue
        seen[render] = name
        kept.append((name, settings))
    return kept
