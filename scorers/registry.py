"""The registry of scorers: those of the folders beside this file, and the entry points of other packages.

No torch is imported before `build`.

A plug-in declares, in its pyproject.toml,

    [project.entry-points."mergetune.scorers"]
    my_score = "my_package.my_module:MY_KIND"      # a ScorerKind

and is only loaded when a study uses its name, so a broken plug-in does not stop other studies.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from basics.messages import in_one_line, unknown_name
from basics.settings import explain_all
from scorers import config
from scorers.aesthetics import anime_kinds as anime
from scorers.aesthetics import kinds as aesthetics
from scorers.distances import embedding_kinds as embedding_distances
from scorers.distances import kinds as distances
from scorers.errors import BrokenPluginError, ScorerSettingsError, UnknownScorerError
from scorers.fidelity import kinds as fidelity
from scorers.kind import ScorerKind
from scorers.pixels import kinds as pixels
from scorers.preference import kinds as preference
from scorers.prompt_fit import kinds as prompt_fit
from scorers.votes import kinds as votes
from scorers.weights.needs import ReferenceFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from scorers.protocol import BuildContext, Scorer
    from scorers.weights.needs import Need

ENTRY_POINT_GROUP = "mergetune.scorers"

_log = logging.getLogger(__name__)
SettingsT = TypeVar("SettingsT", bound=config.ScorerSettings)


BUILTIN_KINDS: dict[str, ScorerKind] = {
    **prompt_fit.KINDS,
    **preference.KINDS,
    **aesthetics.KINDS,
    **anime.KINDS,
    **distances.KINDS,
    **embedding_distances.KINDS,
    **fidelity.KINDS,
    **pixels.KINDS,
    **votes.KINDS,
}


def kinds() -> dict[str, ScorerKind]:
    """Return all usable kinds by name: the built-in ones, then plug-ins. Broken plug-ins are logged."""
    usable = dict(BUILTIN_KINDS)
    for name in sorted(_entry_points()):
        try:
            usable[name] = get_kind(name)
        except BrokenPluginError as error:
            _log.warning("%s", error)
    return usable


def get_kind(name: str) -> ScorerKind:
    """Return the kind called `name`.

    Raises:
        UnknownScorerError: there is none; the message names the nearest ones.
        BrokenPluginError: its plug-in cannot be loaded, or several packages claim the name.
    """
    plugins = _entry_points()
    claims = plugins.get(name, [])
    if name in BUILTIN_KINDS and not claims:
        return BUILTIN_KINDS[name]
    if not claims:
        raise UnknownScorerError(f"no scorer {name!r}: {unknown_name(name, sorted({*BUILTIN_KINDS, *plugins}))}")
    if name in BUILTIN_KINDS or len(claims) > 1:
        owners = ", ".join((["mergetune"] if name in BUILTIN_KINDS else []) + [_owner(point) for point in claims])
        raise BrokenPluginError(f"scorer {name!r} is claimed by {owners}: uninstall one, or rename the plug-in's")
    return _load_plugin(claims[0])


def parse_settings(kind: str, options: Mapping[str, object], base_dir: Path) -> config.ScorerSettings:
    """Parse the options of a scorer into frozen settings; relative paths become absolute against `base_dir`.

    Raises:
        ScorerSettingsError: options are invalid; the message names all of them in one line.
        UnknownScorerError: as `get_kind`.
        BrokenPluginError: as `get_kind`.
    """
    model = get_kind(kind).settings
    try:
        return model.model_validate(dict(options), context={"base_dir": base_dir})
    except ValidationError as error:
        raise ScorerSettingsError(f"scorer {kind!r}: {'; '.join(explain_all(error, model))}") from error


def needs(kind: str, settings: config.ScorerSettings | None) -> tuple[Need, ...]:
    """Return what a scorer with these settings needs beside the images; None: those that no option changes.

    Raises:
        UnknownScorerError: as `get_kind`.
        BrokenPluginError: as `get_kind`.
    """
    return get_kind(kind).needs(settings)


def references(kind: str, settings: config.ScorerSettings) -> tuple[str, ...]:
    """Return the models whose renders a scorer compares with: letters of parents, or absolute paths of checkpoints.

    Raises:
        UnknownScorerError: as `get_kind`.
        BrokenPluginError: as `get_kind`.
    """
    return get_kind(kind).references(settings)


def only_with_loras(kind: str, settings: config.ScorerSettings) -> tuple[str, ...] | None:
    """Return the LoRAs at whose items alone a scorer looks, where an empty tuple means any; None: all items.

    Raises:
        UnknownScorerError: as `get_kind`.
        BrokenPluginError: as `get_kind`.
    """
    names = get_kind(kind).only_with_loras
    return None if names is None else names(settings)


def require_named_files(kind: str, settings: config.ScorerSettings) -> None:
    """Refuse settings that name a file or folder which is not there.

    Raises:
        ScorerError: it is not there, or as `get_kind`.
    """
    for need in needs(kind, settings):
        need.require_named()


def kinds_here(cache_dir: Path) -> frozenset[str]:
    """Return the built-in kinds whose public files are on this machine; folders of the user's own are not looked for.

    Kinds that need a weight file of the user's own (`frechet`, `kernel`) are never among them.

    Args:
        cache_dir: folder of downloaded files.
    """
    return frozenset(
        name
        for name, kind in BUILTIN_KINDS.items()
        if all(isinstance(need, ReferenceFolder) or need.is_here(cache_dir) for need in kind.needs(None))
    )


def build(kind: str, settings: config.ScorerSettings, context: BuildContext) -> Scorer:
    """Build a scorer: import torch, load weights and read references.

    Raises:
        ScorerError: the settings, the weights or the references are wrong; see errors.py.
    """
    entry = get_kind(kind)
    if not isinstance(settings, entry.settings):
        raise ScorerSettingsError(
            f"scorer {kind!r} expects {entry.settings.__name__}, got {type(settings).__name__}: "
            "make it with parse_settings"
        )
    module, _, function = entry.builder.partition(":")
    try:
        builder: Callable[[SettingsT, BuildContext], Scorer] = getattr(importlib.import_module(module), function)
        return builder(cast("Any", settings), context)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plug-in may end the process
        reason = in_one_line(error)
        raise BrokenPluginError(f"scorer {kind!r} ended the process while it was built ({reason})") from error


def _entry_points() -> Mapping[str, list[metadata.EntryPoint]]:
    return _entry_points_on(tuple(sys.path))


@functools.cache  # to look through the folders takes 40 ms, and a list of studies asks for every scorer of each
def _entry_points_on(_path: tuple[str, ...]) -> Mapping[str, list[metadata.EntryPoint]]:
    points: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        points.setdefault(point.name, []).append(point)
    return points


def _owner(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _load_plugin(point: metadata.EntryPoint) -> ScorerKind:
    try:
        kind = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing a plug-in may raise anything, and end the process
        raise BrokenPluginError(
            f"scorer {point.name!r} of {_owner(point)} cannot be loaded from {point.value!r} "
            f"({type(error).__name__}: {error}): update or uninstall that package"
        ) from error
    if not isinstance(kind, ScorerKind):
        raise BrokenPluginError(
            f"scorer {point.name!r} of {_owner(point)}: expected a ScorerKind at {point.value!r}, "
            f"got a {type(kind).__name__}: update or uninstall that package"
        )
    if kind.info.name != point.name:
        raise BrokenPluginError(
            f"scorer {point.name!r} of {_owner(point)} is named {kind.info.name!r} in its info: both names must agree"
        )
    return kind
