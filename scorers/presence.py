"""Whether the files that the options of built-in scorers name are there: told without torch, before anything is loaded.

Plug-ins say for themselves what their options mean, when they are built.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import Any

from scorers import config
from scorers.errors import ReferenceImagesError, ScorerSettingsError
from scorers.weights import AESTHETIC_V2, FID_INCEPTION, existing_file


@singledispatch
def require_named_files(_settings: config.ScorerSettings) -> None:
    """Refuse settings that name a file or folder which is not there.

    Raises:
        MissingWeightsError: a weight file.
        ScorerSettingsError: an architecture of CLIP.
        ReferenceImagesError: the folder of reference images.
    """


@require_named_files.register(config.ClipScoreSettings)
@require_named_files.register(config.ClipIqaSettings)
def _clip(settings: Any) -> None:
    require_clip(settings.clip)


@require_named_files.register
def _aesthetic(settings: config.AestheticSettings) -> None:
    if settings.head is not None:
        existing_file(settings.head, AESTHETIC_V2.setting)
    require_clip(settings.clip)


@require_named_files.register
def _inception(settings: config.InceptionSettings) -> None:
    if settings.weights is not None:
        existing_file(settings.weights, FID_INCEPTION.setting)
    require_reference_folder(settings.reference)


@require_named_files.register
def _network(settings: config.NetworkSettings) -> None:
    existing_file(settings.weights, "weights")
    require_reference_folder(settings.reference)


def require_clip(settings: config.ClipModelSettings) -> None:
    """Refuse a CLIP whose architecture or weight file is named and not there.

    Raises:
        ScorerSettingsError: the architecture is not in `config_dir`.
        MissingWeightsError: the weight file.
    """
    if settings.config_dir is not None:
        architecture_file(settings.config_dir, settings.model)
    if settings.weights_file is not None:
        existing_file(settings.weights_file, "clip.pretrained")


def architecture_file(folder: Path, model: str) -> Path:
    """Return the file of an architecture of the user's own.

    Raises:
        ScorerSettingsError: the folder has none of this name.
    """
    path = folder / f"{model}.json"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise ScorerSettingsError(f"no CLIP architecture {path}: choose one of those in config_dir ({names})")
    return path


def require_reference_folder(folder: Path) -> None:
    """Refuse reference images whose folder is not there.

    Raises:
        ReferenceImagesError: there is no such folder.
    """
    if not folder.is_dir():
        raise ReferenceImagesError(f"no folder of reference images at {folder}: correct option 'reference'")
