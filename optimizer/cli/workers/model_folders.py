"""The folders in which a study's files are looked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.cli.common import fail

if TYPE_CHECKING:
    from optimizer.runtime.model_files import ModelFolders

MODELS_VARIABLE = "MERGETUNE_MODELS"


def model_folders(given: list[Path] | None, caches: Path) -> ModelFolders:
    """Return the folders of `--models`, or those of MERGETUNE_MODELS, which are separated as in PATH."""
    import studies.demo
    from optimizer.runtime.model_files import ModelFolders

    listed = os.environ.get(MODELS_VARIABLE, "")
    folders = given or [Path(part) for part in listed.split(os.pathsep) if part]
    for folder in folders:
        if not folder.expanduser().is_dir():
            fail(f"--models: {folder} is not a folder")
    return ModelFolders(
        folders=tuple(folder.expanduser().resolve() for folder in folders),
        digests=caches / "sha256.json",
        also=(caches, Path(studies.demo.__file__).parent),
    )
