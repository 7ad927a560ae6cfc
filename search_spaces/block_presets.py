"""Block-weight presets of the community's merge extensions, such as GRAD_V. The data is in block_presets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from basics.messages import unknown_name
from search_spaces.block_weights import parse_block_weights
from search_spaces.blocks import Architecture, text_encoders
from search_spaces.errors import UnknownPresetError

_FILE = "block_presets.yaml"


def block_preset_names() -> tuple[str, ...]:
    """Return the names of all block-weight presets, in the order of the extensions."""
    return tuple(_presets())


def block_preset(name: str) -> tuple[float, ...]:
    """Return the 26 numbers of a preset: BASE, IN00..IN11, M00, OUT00..OUT11 of SD1.5.

    Raises:
        UnknownPresetError: no preset has this name; the message names the closest one.
    """
    presets = _presets()
    if name not in presets:
        raise UnknownPresetError(f"block-weight preset {name!r} is unknown: {unknown_name(name, presets)}")
    return presets[name]


def preset_ratios(name: str, architecture: Architecture, base: float | None = None) -> dict[str, float]:
    """Return the ratio of every place, as `parse_block_weights` does; the VAE's is 0.

    Args:
        name: of the preset.
        architecture: of the places.
        base: ratio of the text encoders, instead of the preset's BASE.

    Raises:
        UnknownPresetError: as `block_preset`.
    """
    ratios = parse_block_weights(",".join(map(repr, block_preset(name))), architecture)
    return ratios if base is None else {**ratios, **dict.fromkeys(text_encoders(architecture), base)}


@cache
def _presets() -> Mapping[str, tuple[float, ...]]:
    text = resources.files("search_spaces").joinpath(_FILE).read_text(encoding="utf-8")
    return {name: tuple(map(float, numbers)) for name, numbers in yaml.safe_load(text).items()}
