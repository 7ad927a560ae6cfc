"""`mergetune suite`: prompts and settings for a spec's suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from basics.messages import counted
from basics.names import typed_path
from optimizer.cli.common import console, errors, escaped, fail, loading_libraries
from optimizer.cli.views.help import Commands

if TYPE_CHECKING:
    from collections.abc import Iterable

    from studies.spec.published.settings import PublishedSettings

STDOUT: Final = Path("-")

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
            "-o",
            "--output",
            parser=typed_path,
            metavar="FILE",
            help="The YAML file to write; - for the standard output.",
            show_default=False,
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read the pictures of all folders below it as well.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a `suite:` section with the settings of published pictures: PNG, JPEG, WebP and .txt files."""
    to_stdout = output == STDOUT
    if not folder.is_dir():
        fail(f"{folder} is no folder: give a folder of pictures that have their settings in them")
    if not to_stdout and output.exists() and not force:
        fail(f"{output} exists already: give another name, or --force to replace it")
    files = _files(folder, recursive=recursive)
    with loading_libraries():
        from optimizer.rendering.published import left_out
        from studies.spec.published.files import read_published
        from studies.spec.published.settings import PublishedError
        from studies.spec.published.suites import one_suite, suite_section

    found: list[tuple[str, PublishedSettings]] = []
    for path in files:
        try:
            found.append((path.relative_to(folder).as_posix(), read_published(path)))
        except PublishedError as error:
            _leave_out(_with_folder(path.relative_to(folder), " ".join(str(error).split())))
    chosen = one_suite(found)
    for name, why in chosen.left_out:
        _leave_out(f"{name}: {why}")
    refused = dict(left_out(chosen.settings, chosen.pictures))
    for name, why in refused.items():
        _leave_out(f"{name}: {why}")
    kept = [(name, settings) for name, settings in chosen.pictures if name not in refused]
    if not kept:
        nothing = "nothing" if to_stdout else f"{output} is not"
        fail(f"none of {counted(len(files), 'file')} in {folder} has settings that can be used: {nothing} written")
    section = suite_section(chosen.settings, kept)
    told = errors if to_stdout else console
    _write(section, None if to_stdout else output, force=force)
    for name, settings in kept:
        for note in settings.notes:
            told.print(f"[yellow]note:[/] {escaped(name)}: {escaped(note)}")
    told.print(escaped(f"wrote {'the suite' if to_stdout else output}: {len(kept)} of {counted(len(files), 'file')}"))


def _files(folder: Path, *, recursive: bool) -> list[Path]:
    """List the pictures and texts of a folder in order, and say which folders below it are not looked at."""
    from studies.spec.published.files import SUFFIXES

    def readable(paths: Iterable[Path]) -> list[Path]:
        return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())

    files = readable(folder.rglob("*") if recursive else folder.iterdir())
    below = [] if recursive else [each for each in sorted(folder.iterdir()) if each.is_dir()]
    unread = {each.name: len(readable(each.rglob("*"))) for each in below}
    unread = {name: count for name, count in unread.items() if count}
    if unread and not files:
        fail(f"{folder} has its pictures in folders below it ({', '.join(unread)}): add --recursive to read them")
    if not files:
        fail(f"{folder} has no PNG, JPEG, WebP or .txt file: give a folder of pictures")
    for name, count in unread.items():
        _leave_out(f"the folder {name} with {counted(count, 'file')}: add --recursive to read them")
    return files


def _with_folder(path: Path, message: str) -> str:
    """Return a message that begins with a file's name as one that begins with the folders before it."""
    return f"{path.parent.as_posix()}/{message}" if path.parent.name else message


def _leave_out(what: str) -> None:
    errors.print(f"[yellow]left out:[/] {escaped(what)}")


def _write(section: str, output: Path | None, *, force: bool) -> None:
    """Write a section into a file, or to the standard output: in UTF-8 and as it is, for another program to read."""
    from basics.files import replacing

    if output is None:
        sys.stdout.buffer.write(section.encode())
        sys.stdout.flush()
        return
    with replacing(output, overwrite=force) as part:
        part.write_text(section, encoding="utf-8")
