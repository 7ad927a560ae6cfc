"""Settings -> parameters: which places share a number, in which range, and which are not searched at all.

Settings that contradict themselves or the architecture are errors. Nothing is repaired: a space that is
smaller or larger than its author believes costs a study.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from search_spaces.blocks import UNET, VAE, Architecture, blocks, places, section_of
from search_spaces.errors import BoundsError, EmptySpaceError, FrozenError, GroupError, SlotError
from search_spaces.patterns import collective_names, matching_places
from search_spaces.settings import Granularity, SpaceSettings

DEFAULT_BOUNDS: Final = (0.0, 1.0)
PARENT_A: Final = 0.0

# No dot, which separates a parameter's name from its slot's; no brackets or stars, which read as patterns.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number the optimizer chooses, and the places that take it as their ratio."""

    name: str
    low: float
    high: float  # inclusive, as `low` is
    places: tuple[str, ...]  # in the order of `places(architecture)`
    slot: int  # which of the merge method's ratios it is


def parameters_of(
    settings: SpaceSettings,
    architecture: Architecture,
    slots: tuple[str, ...],
) -> tuple[Parameter, ...]:
    """Return the parameters, ordered by their first place; those of one place's slots stand together.

    The settings have no preset (see `presets.resolved`).

    Raises:
        SpaceError: the settings contradict themselves or the architecture; see errors.py for the kinds.
    """
    _check_slots(slots)
    fixed = fixed_ratios(settings, architecture)
    bounds = _bounds(settings, architecture, fixed)
    members = _members(settings, architecture, fixed)
    if not members:
        raise EmptySpaceError("frozen: every place is frozen and nothing is left to search; free at least one")
    ranges = {name: _common_bounds(name, own, bounds) for name, own in members.items()}
    return tuple(
        Parameter(
            name=name if len(slots) == 1 else f"{name}.{label}",
            low=ranges[name][0],
            high=ranges[name][1],
            places=own,
            slot=slot,
        )
        for name, own in members.items()
        for slot, label in enumerate(slots)
    )


def _check_slots(slots: tuple[str, ...]) -> None:
    if not slots or len(set(slots)) != len(slots) or not all(_NAME.fullmatch(slot) for slot in slots):
        raise SlotError(f"slots: expected at least one name, all different and without dots, got {slots}")


def fixed_ratios(settings: SpaceSettings, architecture: Architecture) -> dict[str, float]:
    """Return place -> ratio of what is not searched, in the order of `places`.

    Raises:
        FrozenError: a ratio is not finite, or `merge_vae` asks to search a VAE that is frozen.
    """
    fixed: dict[str, float] = {}
    for pattern, ratio in settings.frozen.items():
        if not math.isfinite(ratio):
            raise FrozenError(f"frozen: expected a finite ratio for {pattern!r}, got {ratio}")
        fixed.update(dict.fromkeys(matching_places(pattern, architecture, "frozen"), ratio))
    if settings.merge_vae and VAE in fixed:
        raise FrozenError(
            f"merge_vae is true, but frozen holds {VAE} at {fixed[VAE]}: remove one of the two",
        )
    if not settings.merge_vae:
        fixed.setdefault(VAE, PARENT_A)
    return {place: fixed[place] for place in places(architecture) if place in fixed}


def _bounds(
    settings: SpaceSettings,
    architecture: Architecture,
    fixed: Mapping[str, float],
) -> dict[str, tuple[float, float]]:
    """Return place -> (low, high) of what is searched.

    A pattern may cover frozen places beside searched ones (`"*": [0, 0.5]` means all that is searched); one
    that covers frozen places alone would change nothing and is refused.
    """
    bounds = {place: DEFAULT_BOUNDS for place in places(architecture) if place not in fixed}
    for pattern, (low, high) in settings.bounds.items():
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise BoundsError(
                f"bounds: expected two finite numbers low < high for {pattern!r}, got [{low}, {high}]; "
                f"to hold a ratio still, use frozen",
            )
        covered = matching_places(pattern, architecture, "bounds")
        searched = [place for place in covered if place in bounds]
        if not searched:
            raise BoundsError(f"bounds: {pattern!r} changes nothing: {_why_fixed(covered[0], fixed, settings)}")
        bounds.update(dict.fromkeys(searched, (low, high)))
    return bounds


def _why_fixed(place: str, fixed: Mapping[str, float], settings: SpaceSettings) -> str:
    """Say which setting holds a place still and what to do."""
    if place == VAE and not settings.merge_vae:
        return f"{VAE} is not searched unless merge_vae is true"
    return f"{place} is frozen to {fixed[place]}; remove it from one of the two settings"


def _members(
    settings: SpaceSettings,
    architecture: Architecture,
    fixed: Mapping[str, float],
) -> dict[str, tuple[str, ...]]:
    """Return parameter name (without slot) -> its places, in the order of each one's first place."""
    group_of = _group_of(settings, architecture, fixed)
    every_block = frozenset(blocks(architecture))
    members: dict[str, tuple[str, ...]] = {}
    for place in places(architecture):
        if place in fixed:
            continue
        own_name = _name_in_unet(place, settings.granularity) if place in every_block else place
        name = group_of.get(place, own_name)
        members[name] = (*members.get(name, ()), place)
    return members


def _name_in_unet(block: str, granularity: Granularity) -> str:
    match granularity:
        case "uniform":
            return UNET
        case "sections":
            return section_of(block)
        case "blocks":
            return block


def _group_of(
    settings: SpaceSettings,
    architecture: Architecture,
    fixed: Mapping[str, float],
) -> dict[str, str]:
    """Return place -> group of the places that are in one."""
    group_of: dict[str, str] = {}
    for name, patterns in settings.groups.items():
        members = _group_members(name, patterns, architecture)
        _check_group_name(name, members, architecture)
        for place in members:
            if place in fixed:
                raise GroupError(f"groups: {name!r} holds {place}, but {_why_fixed(place, fixed, settings)}")
            if place in group_of:
                raise GroupError(
                    f"groups: {place} is in {group_of[place]!r} and in {name!r}; a place has one group, "
                    f"take it out of one of them",
                )
            group_of[place] = name
    return group_of


def _group_members(name: str, patterns: tuple[str, ...], architecture: Architecture) -> tuple[str, ...]:
    setting = f"groups, {name!r}"
    matched = {place for pattern in patterns for place in matching_places(pattern, architecture, setting)}
    if not matched:
        raise GroupError(f"groups: {name!r} is empty; give it patterns or remove it")
    return tuple(place for place in places(architecture) if place in matched)


def _check_group_name(name: str, members: tuple[str, ...], architecture: Architecture) -> None:
    if _NAME.fullmatch(name) is None:
        raise GroupError(
            f"groups: expected a name that begins with a letter and has only letters, digits, '_' and '-', "
            f"got {name!r}",
        )
    meanings = {**collective_names(architecture), **{place: (place,) for place in places(architecture)}}
    if meanings.get(name, members) != members:
        raise GroupError(
            f"groups: {name!r} means {_listed(meanings[name])}, but the group holds {_listed(members)}; "
            f"choose another name",
        )


def _common_bounds(
    name: str,
    members: tuple[str, ...],
    bounds: Mapping[str, tuple[float, float]],
) -> tuple[float, float]:
    """Return the bounds that all places of one parameter share."""
    first = members[0]
    for place in members:
        if bounds[place] != bounds[first]:
            raise BoundsError(
                f"bounds: {first} has {list(bounds[first])} and {place} has {list(bounds[place])}, but both "
                f"belong to the parameter {name!r}; give them the same bounds or separate them",
            )
    return bounds[first]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
