"""The folders in which a study's files are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import typed_path
from optimizer.cli.common import fail
from studies.system.advice import quoted

if TYPE_CHECKING:
    from optimizer.runtime.digest_cache import DigestCache
    from optimizer.runtime.model_files import ModelFolders

MODELS_VARIABLE = "MERGETUNE_MODELS"

Moved = Annotated[
    list[Path] | None,
    typer.Option(
        "--models",
        parser=typed_path,
        metavar="FOLDER",
        help="Folder in which to find the study's files that have moved, by their content; may be repeated. "
        f"[default: {MODELS_VARIABLE}]",
        show_default=False,
    ),
]


def model_folders(given: Sequence[Path] | None, caches: Path) -> ModelFolders:
    """Return the folders of a worker's `--models`, or those of MERGETUNE_MODELS: no other file may be read."""
    return _folders(given or _of_environment(), caches, exclusive=True)


def searched_folders(given: Sequence[Path] | None, caches: Path) -> ModelFolders:
    """Return the folders in which a command looks for the moved files of the study that it names.

    Files that are where the study names them are taken from there, unless MERGETUNE_MODELS bounds what may be read.
    """
    bounds = _of_environment()
    return _folders([*(given or ()), *bounds], caches, exclusive=bool(bounds))


def digest_cache(caches: Path) -> DigestCache:
    """Return the cache of the sha256 of files that all commands share.

    Args:
        caches: the folder of caches.
    """
    from optimizer.runtime.digest_cache import DigestCache

    return DigestCache(caches / "sha256.json")


def models_option(given: Sequence[Path] | None) -> str:
    """Return the `--models` options for another command, each with a leading space."""
    return "".join(f" --models {quoted(str(folder))}" for folder in given or ())


def require_folders(given: Sequence[Path]) -> None:
    """Refuse what is no folder among those of `--models`."""
    for folder in given:
        if not folder.is_dir():
            fail(f"--models: {folder} is not a folder")


def _of_environment() -> list[Path]:
    """Return the folders of MERGETUNE_MODELS, which are separated as in PATH."""
    return [typed_path(part) for part in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if part]


def _folders(folders: Sequence[Path], caches: Path, *, exclusive: bool) -> ModelFolders:
    require_folders(folders)
    import studies.demo
    from optimizer.runtime.model_files import ModelFolders

    return ModelFolders(
        folders=tuple(dict.fromkeys(folder.resolve() for folder in folders)),
        digests=digest_cache(caches),
        also=(caches, Path(studies.demo.__file__).parent),
        exclusive=exclusive,
    )
