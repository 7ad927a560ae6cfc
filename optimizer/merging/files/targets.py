"""Paths to which commands write what they make: which of them are refused, before any work is done."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from basics.files import kind_of_file
from optimizer.errors import ExportError


def refuse_target(target: Path, *, overwrite: bool, option: str = "-o") -> None:
    """Refuse a path to which nothing can or must be written.

    A symbolic link is refused, whatever it leads to: to replace the link, or the file elsewhere that it leads to, would
    each be wrong for somebody.

    Args:
        overwrite: whether an existing file may be replaced.
        option: with which the user gives the path.

    Raises:
        ExportError: the target exists and may not be replaced, is no regular file, or its folder does not exist.
    """
    try:
        kind = kind_of_file(target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror}; give another path with {option}") from error
    if kind == "folder" or not target.parent.is_dir():
        raise ExportError(f"cannot write {target}: give the path of a file in a folder that exists with {option}")
    if kind == "symbolic link":
        raise ExportError(
            f"{target} is a symbolic link to {target.readlink()}, and no link is written through or replaced: give the "
            f"path of the file itself with {option}"
        )
    if kind not in {None, "file"}:
        raise ExportError(f"{target} is a {kind}, and only a file is replaced: give another path with {option}")
    if kind is not None and not overwrite:
        raise exists(target, option)


def refuse_unwritable(folder: Path, option: str = "-o") -> None:
    """Refuse a folder, which need not exist yet, in which no file can be made.

    Args:
        option: with which the user gives it, or a path in it.

    Raises:
        ExportError: it cannot be written to.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    try:
        with TemporaryDirectory(prefix=".mergetune-", dir=there):
            pass
    except OSError as error:
        raise ExportError(f"cannot write into {there}: {error.strerror}; give another path with {option}") from error


def exists(target: Path, option: str) -> ExportError:
    """Return the error for a target that must not be replaced.

    Args:
        option: with which the user gives the path.
    """
    return ExportError(f"{target} exists: give another name with {option}, or --force to replace it")
