"""Named search spaces, one YAML file each beside this module.

A file holds a one-line `description` and `settings`. Groups of blocks that differ between families of models are
defined with the family (`preset_groups`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import yaml

from basics.messages import unknown_name
from basics.settings import FrozenSettings
from search_spaces.blocks import Architecture
from search_spaces.errors import UnknownPresetError
from search_spaces.families.registry import family_of
from search_spaces.settings import SpaceSettings

_SUFFIX = ".yaml"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named search space."""

    name: str
    description: str  # one line, for lists
    settings: SpaceSettings

    def settings_for(self, architecture: Architecture) -> SpaceSettings:
        """Return the settings for one architecture."""
        groups = family_of(architecture).preset_groups.get(self.name)
        return self.settings if groups is None else SpaceSettings(groups=dict(groups)).over(self.settings)


class _PresetFile(FrozenSettings):
    """The content of one YAML file."""

    description: str
    settings: SpaceSettings = SpaceSettings()


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    return tuple(sorted(_files()))


def load_preset(name: str) -> Preset:
    """Read one preset.

    Raises:
        UnknownPresetError: no preset has this name; the message names the closest one.
    """
    files = _files()
    if name not in files:
        raise UnknownPresetError(f"preset: {name!r} is unknown: {unknown_name(name, sorted(files))}")
    content = _PresetFile.model_validate(yaml.safe_load(files[name].read_text(encoding="utf-8")))
    return Preset(name=name, description=content.description, settings=content.settings)


def resolved(settings: SpaceSettings, architecture: Architecture) -> SpaceSettings:
    """Return the settings with their preset filled in: `preset` is None, and every other field is set.

    A study that stores them searches the same space even after the preset or a default has changed.

    Raises:
        UnknownPresetError: see `load_preset`.
    """
    if settings.preset is not None:
        settings = settings.over(load_preset(settings.preset).settings_for(architecture))
    written = {name: getattr(settings, name) for name in SpaceSettings.model_fields}
    return SpaceSettings.model_validate({**written, "preset": None})


def _files() -> dict[str, Traversable]:
    """Return each preset's file by name. importlib.resources also reads packages inside a zip file."""
    files = resources.files(__package__).iterdir()
    return {file.name.removesuffix(_SUFFIX): file for file in files if file.name.endswith(_SUFFIX)}
