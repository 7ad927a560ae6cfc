"""Settings in a diffusers pipeline's `config.json` files that change images and that a checkpoint file cannot hold.

A merge is rendered, and used in other programs, with the values that every model of a family has. A folder that says
otherwise is refused, because its weights would mean something else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isclose
from pathlib import Path
from typing import Any

from basics.foreign import read_json
from basics.messages import first_line
from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.families.views import Component
from search_spaces.blocks import Architecture
from search_spaces.families.registry import family_of


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        data = read_json(path, infinite=True)  # diffusers writes a lower limit of -Infinity
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): fetch the folder again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is damaged (expected an object in braces): fetch the folder again")
    return data


def require_assumed(
    path: Path,
    component: Component,
    architecture: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    applied: Collection[str] = (),
) -> None:
    """Refuse a component whose `config.json` says other than all models of the family have; none is no problem.

    Args:
        path: of the `config.json`.
        shapes: of the component's tensors, by their keys in a file.
        applied: keys whose values are taken over, and may be any.

    Raises:
        CheckpointError: it does, or cannot be read.
    """
    if path.is_file():
        assumed = model_family(architecture).assumed_settings(component, shapes)
        checked = {key: value for key, value in assumed.items() if key not in applied}
        refuse_differing(path, read_settings(path), checked, architecture)


def refuse_differing(
    path: Path, settings: Mapping[str, Any], assumed: Mapping[str, Any], architecture: Architecture
) -> None:
    """Refuse settings that are there and differ from the family's.

    Args:
        path: of the settings, for the message.
        assumed: key -> the family's value.

    Raises:
        CheckpointError: one does; the message names all that do.
    """
    differing = {key: settings[key] for key in assumed if key in settings and not _same(settings[key], assumed[key])}
    if differing:
        title = family_of(architecture).title
        found = ", ".join(f"{key} {value!r} where {title} has {assumed[key]!r}" for key, value in differing.items())
        raise CheckpointError(
            f"{path} says {found}: a checkpoint file cannot hold that, so the merge would be another model; correct "
            "the file if it is wrong, or use another model"
        )


def _same(given: object, assumed: object) -> bool:
    """Return whether a setting has the assumed value; one number for every level is the same as the number."""
    if isinstance(given, list | tuple) and isinstance(assumed, list | tuple):
        return len(given) == len(assumed) and all(map(_same, given, assumed))
    if isinstance(given, list) and given:
        return all(_same(value, assumed) for value in given)
    if isinstance(assumed, tuple):
        return all(_same(given, value) for value in assumed)
    if isinstance(given, int | float) and isinstance(assumed, int | float):
        return isclose(given, assumed, rel_tol=1e-6)
    return given == assumed or (assumed is None and given in (0, False))
