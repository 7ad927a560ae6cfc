"""The parameters that settings define: which places share a number, its bounds, and which places are fixed.

A *cell* is one slot of one place. Every cell is either fixed or belongs to one parameter. Settings that contradict
themselves, the architecture or the merge method are errors. Nothing is repaired, because a space that is smaller or
larger than its author believes wastes a study.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from basics.messages import unknown_name
from search_spaces.blocks import UNET, VAE, Architecture, blocks, places, section_of
from search_spaces.errors import BoundsError, EmptySpaceError, FrozenError, GroupError, SlotError
from search_spaces.patterns import collective_names, matching_places
from search_spaces.settings import SlotSettings, SpaceSettings
from search_spaces.slots import Slot

Cell = tuple[str, int]  # (place, index of the slot)
Bounds = tuple[float, float]

# Without a dot, which separates the name of a parameter from that of its slot, and without the characters of patterns.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number that the optimizer chooses, and the places that use it."""

    name: str
    low: float
    high: float  # inclusive, as `low` is
    places: tuple[str, ...]  # in the order of `places(architecture)`
    slot: int  # index of the slot


def parameters_of(settings: SpaceSettings, architecture: Architecture, slots: Sequence[Slot]) -> tuple[Parameter, ...]:
    """Return the parameters, ordered by their first place and then by slot.

    Parameters that are one number for everything come last. The settings must not name a preset (see
    `presets.resolved`).

    Raises:
        SpaceError: the settings contradict themselves or the architecture; see errors.py for the kinds.
    """
    fixed = fixed_cells(settings, architecture, slots)
    bounds = _bounds(settings, architecture, slots, fixed)
    group_of = _group_of(settings, architecture, fixed, slots)
    single = sum(slot.kind == "ratio" for slot in slots) == 1
    order = {place: index for index, place in enumerate(places(architecture))}
    ranked: list[tuple[tuple[float, int], Parameter]] = []
    for index, slot in enumerate(slots):
        searched = [place for place in places(architecture) if (place, index) not in fixed]
        granularity = granularity_of(slot, settings)
        for name, members in _members(searched, granularity, group_of, architecture).items():
            full_name = (
                slot.name
                if granularity == "one"
                else name
                if slot.kind == "ratio" and single
                else f"{name}.{slot.name}"
            )
            low, high = _common_bounds(full_name, members, index, bounds)
            rank = math.inf if granularity == "one" else order[members[0]]
            ranked.append(((rank, index), Parameter(name=full_name, low=low, high=high, places=members, slot=index)))
    if not ranked:
        raise EmptySpaceError(_nothing_to_search(slots))
    return tuple(parameter for _, parameter in sorted(ranked, key=lambda pair: pair[0]))


def _nothing_to_search(slots: Sequence[Slot]) -> str:
    if not any(slot.kind == "ratio" for slot in slots):
        return (
            "the merge method has no ratios, so nothing is left to search: blend its result with a parent in a second "
            "step (`inputs: [A, result-1]`), or give one of its parameters bounds"
        )
    return "frozen: every place is frozen and nothing is left to search; free at least one"


def check_slots(slots: Sequence[Slot], architecture: Architecture) -> None:
    """Refuse names of slots that cannot name parameters.

    Raises:
        SlotError: a name occurs twice, is not a valid name, or is the name of a place.
    """
    names = [slot.name for slot in slots]
    if len(set(names)) != len(names) or not all(_NAME.fullmatch(name) for name in names):
        raise SlotError(f"slots: expected names that are all different and without dots, got {', '.join(names)}")
    place_names = {*places(architecture), *collective_names(architecture)}
    if clashes := sorted(place_names & set(names)):
        raise SlotError(f"slots: {clashes[0]!r} is the name of a place: choose another name")


# ------------------------------------------------------------------------------------------- fixed cells


def fixed_cells(settings: SpaceSettings, architecture: Architecture, slots: Sequence[Slot]) -> dict[Cell, float]:
    """Return the value of each fixed cell.

    Raises:
        FrozenError: a value is not allowed, or `merge_vae` asks to search a VAE that is frozen.
        SlotError: a setting names a slot that the merge method does not have.
    """
    check_slots(slots, architecture)
    _check_slot_settings(settings, slots)
    fixed: dict[Cell, float] = {}
    for pattern, value in settings.frozen.items():
        for place, index in _cells(pattern, architecture, slots, settings, "frozen"):
            if not slots[index].allows(value):
                raise FrozenError(f"frozen: {pattern!r} is {value}, {slots[index].name} takes {slots[index].allowed}")
            fixed[place, index] = value
    ratios = [index for index, slot in enumerate(slots) if slot.kind == "ratio"]
    if settings.merge_vae and ratios and all((VAE, index) in fixed for index in ratios):
        raise FrozenError(
            f"merge_vae is true, but frozen holds {VAE} at {fixed[VAE, ratios[0]]}: remove one of the two"
        )
    if not settings.merge_vae:
        for index in ratios:
            fixed.setdefault((VAE, index), 0.0)
    unmerged = {
        place for place in places(architecture) if ratios and all(fixed.get((place, index)) == 0.0 for index in ratios)
    }
    for index, slot in enumerate(slots):
        if slot.kind != "ratio":
            fixed |= _fixed_numbers(slot, index, settings, architecture, unmerged)
    return fixed


def _fixed_numbers(
    slot: Slot, index: int, settings: SpaceSettings, architecture: Architecture, unmerged: set[str]
) -> dict[Cell, float]:
    """Return the fixed cells of a method's parameter or a LoRA's weight.

    All cells are fixed if the settings give a value. Otherwise those are fixed in which the number has no effect.
    """
    chosen = settings.parameters.get(slot.name)
    if chosen is None or chosen.value is not None:
        value = slot.default if chosen is None or chosen.value is None else chosen.value
        return {(place, index): value for place in places(architecture)}
    if chosen.granularity == "one":
        return {}
    without_effect = {VAE} if slot.kind == "lora" else unmerged | {VAE}
    return {(place, index): slot.default for place in places(architecture) if place in without_effect}


def _check_slot_settings(settings: SpaceSettings, slots: Sequence[Slot]) -> None:
    by_name = {slot.name: slot for slot in slots}
    for name, chosen in settings.parameters.items():
        if name not in by_name:
            raise SlotError(f"parameters: {name!r} is not one of this merge: {unknown_name(name, by_name) or 'none'}")
        slot = by_name[name]
        if slot.kind == "ratio":
            raise SlotError(f"parameters: {name!r} is a ratio: use bounds and frozen to say where it is searched")
        for value in (chosen.value,) if chosen.bounds is None else chosen.bounds:
            if value is None or not slot.allows(value):
                raise BoundsError(f"parameters: {name} is {value}, expected {slot.allowed}")
        if chosen.bounds is not None and not chosen.bounds[0] < chosen.bounds[1]:
            raise BoundsError(f"parameters: expected low < high for {name!r}, got {list(chosen.bounds)}")


def matching_cells(pattern: str, architecture: Architecture, slots: Sequence[Slot], setting: str) -> tuple[Cell, ...]:
    """Return the cells of a pattern: its places, in the slot after its dot, or else in every ratio slot.

    Args:
        setting: where the pattern is written, for the message.

    Raises:
        SlotError: there is no such slot.
        UnmatchedPatternError: the pattern matches no place.
    """
    where, dot, name = pattern.rpartition(".")
    if not dot:
        where, chosen = pattern, [index for index, slot in enumerate(slots) if slot.kind == "ratio"]
    else:
        names = [slot.name for slot in slots]
        if name not in names:
            raise SlotError(f"{setting}: {pattern!r} names the slot {name!r}: {unknown_name(name, names)}")
        chosen = [names.index(name)]
    return tuple((place, index) for place in matching_places(where, architecture, setting) for index in chosen)


def _cells(
    pattern: str, architecture: Architecture, slots: Sequence[Slot], settings: SpaceSettings, setting: str
) -> tuple[Cell, ...]:
    """Return the cells of a pattern, as `matching_cells` does.

    Raises:
        SlotError: there is no such slot, or it has one number for all places.
        UnmatchedPatternError: the pattern matches no place.
    """
    cells = matching_cells(pattern, architecture, slots, setting)
    named = "." in pattern
    if named and any(granularity_of(slots[index], settings) == "one" for _, index in cells):
        name = slots[cells[0][1]].name
        raise SlotError(f"{setting}: {name!r} is one number for all places; set it under parameters")
    return cells


def granularity_of(slot: Slot, settings: SpaceSettings) -> str:
    """Return the granularity of a slot: one, uniform, sections, blocks or auto."""
    if slot.kind == "ratio":
        return settings.granularity
    return settings.parameters.get(slot.name, SlotSettings(value=0)).granularity


# ------------------------------------------------------------------------------------------------ bounds


def _bounds(
    settings: SpaceSettings, architecture: Architecture, slots: Sequence[Slot], fixed: Mapping[Cell, float]
) -> dict[Cell, Bounds]:
    """Return the bounds of every searched cell.

    A pattern may match fixed cells as well (`"*": [0, 0.5]` means every cell that is searched).

    Raises:
        BoundsError: bounds are not valid, or a pattern matches fixed cells only and would change nothing.
    """
    bounds: dict[Cell, Bounds] = {}
    for index, slot in enumerate(slots):
        chosen = settings.parameters.get(slot.name)
        own = (slot.low, slot.high) if chosen is None or chosen.bounds is None else chosen.bounds
        bounds |= {(place, index): own for place in places(architecture) if (place, index) not in fixed}
    for pattern, (low, high) in settings.bounds.items():
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise BoundsError(
                f"bounds: expected two finite numbers low < high for {pattern!r}, got [{low}, {high}]; "
                f"to fix a ratio, use frozen",
            )
        matched = _cells(pattern, architecture, slots, settings, "bounds")
        searched = [cell for cell in matched if cell in bounds]
        if not searched:
            raise BoundsError(f"bounds: {pattern!r} changes nothing: {_why_fixed(matched[0], fixed, settings)}")
        for cell in searched:
            if not (slots[cell[1]].allows(low) and slots[cell[1]].allows(high)):
                slot = slots[cell[1]]
                raise BoundsError(f"bounds: {pattern!r} is [{low}, {high}], {slot.name} takes {slot.allowed}")
            bounds[cell] = (low, high)
    return bounds


def _why_fixed(cell: Cell, fixed: Mapping[Cell, float], settings: SpaceSettings) -> str:
    """Say which setting fixes a place, and what to do."""
    place = cell[0]
    if place == VAE and not settings.merge_vae:
        return f"{VAE} is not searched unless merge_vae is true"
    return f"{place} is frozen to {fixed[cell]}; remove it from one of the two settings"


def _common_bounds(name: str, members: tuple[str, ...], slot: int, bounds: Mapping[Cell, Bounds]) -> Bounds:
    """Return the bounds that all places of one parameter share.

    Raises:
        BoundsError: they have different bounds.
    """
    first = members[0]
    for place in members:
        if bounds[place, slot] != bounds[first, slot]:
            raise BoundsError(
                f"bounds: {first} has {list(bounds[first, slot])} and {place} has {list(bounds[place, slot])}, but "
                f"both belong to the parameter {name!r}; give them the same bounds or separate them",
            )
    return bounds[first, slot]


# ----------------------------------------------------------------------------------------------- members


def _members(
    searched: Iterable[str], granularity: str, group_of: Mapping[str, str], architecture: Architecture
) -> dict[str, tuple[str, ...]]:
    """Map each parameter's name (without its slot) to its places, in the order of first places."""
    unet_blocks = frozenset(blocks(architecture))
    members: dict[str, tuple[str, ...]] = {}
    for place in searched:
        own_name = _name_in_unet(place, granularity) if place in unet_blocks else place
        name = "" if granularity == "one" else group_of.get(place, own_name)
        members[name] = (*members.get(name, ()), place)
    return members


def _name_in_unet(block: str, granularity: str) -> str:
    match granularity:
        case "uniform":
            return UNET
        case "sections":
            return section_of(block)
        case _:
            return block


def _group_of(
    settings: SpaceSettings, architecture: Architecture, fixed: Mapping[Cell, float], slots: Sequence[Slot]
) -> dict[str, str]:
    """Map each place that is in a group to the name of its group.

    Raises:
        GroupError: a group is empty, overlaps another, holds a fixed place, or has a misleading name.
    """
    ratios = [index for index, slot in enumerate(slots) if slot.kind == "ratio"]
    group_of: dict[str, str] = {}
    for name, patterns in settings.groups.items():
        members = _group_members(name, patterns, architecture)
        _check_group_name(name, members, architecture)
        for place in members:
            if ratios and all((place, index) in fixed for index in ratios):
                raise GroupError(
                    f"groups: {name!r} holds {place}, but {_why_fixed((place, ratios[0]), fixed, settings)}"
                )
            if place in group_of:
                raise GroupError(
                    f"groups: {place} is in {group_of[place]!r} and in {name!r}, but a place can have one group only: "
                    f"take it out of one of them",
                )
            group_of[place] = name
    return group_of


def _group_members(name: str, patterns: tuple[str, ...], architecture: Architecture) -> tuple[str, ...]:
    setting = f"groups, {name!r}"
    matched = {place for pattern in patterns for place in matching_places(pattern, architecture, setting)}
    if not matched:
        raise GroupError(f"groups: {name!r} is empty: give it patterns or remove it")
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
            f"groups: {name!r} means {_listed(meanings[name])}, but the group holds {_listed(members)}: "
            f"choose another name",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
