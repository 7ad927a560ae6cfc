"""A search space in words: what is searched and how far, what is held fixed, and which places share a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from search_spaces.blocks import Architecture, places
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace


def space_in_words(space: SearchSpace) -> Iterator[tuple[str, str]]:
    """Yield title and description of a space's bounds, its frozen numbers and its groups; of what it has none, none."""
    yield "bounds", _bounds(space)
    if space.fixed:
        yield "frozen", _frozen(space)
    groups = [each for each in space.parameters if each.name.partition(".")[0] in space.settings.groups]
    if groups:
        shared = [f"{each.name} is one number for {_ranges(each.places, space.architecture)}" for each in groups]
        yield "groups", "; ".join(shared)


def _bounds(space: SearchSpace) -> str:
    """Describe how far the numbers are searched: those with equal bounds together."""
    names: dict[str, list[str]] = {}
    for each in space.parameters:
        words = range_in_words(space.slots[each.slot], each.low, each.high)
        names.setdefault(words, []).append(_without_slot(each.name, space.slots[each.slot]))
    if len(names) == 1:
        return f"{next(iter(names))} everywhere"
    return "; ".join(f"{words}: {_ranges(own, space.architecture)}" for words, own in names.items())


def _frozen(space: SearchSpace) -> str:
    cells: dict[str, list[str]] = {}
    for place, index, value in space.fixed:
        cells.setdefault(value_in_words(space.slots[index], value), []).append(place)
    every = list(places(space.architecture))
    return "; ".join(
        f"{words}: {'everywhere' if own == every else _ranges(own, space.architecture)}" for words, own in cells.items()
    )


def range_in_words(slot: Slot, low: float, high: float) -> str:
    """Describe bounds of a slot, such as `0 to 70 % of B`."""
    if slot.kind == "ratio":
        return f"{100 * low:g} to {100 * high:g} % of {slot.name}"
    return f"{_title(slot)} {low:g} to {high:g}"


def value_in_words(slot: Slot, value: float) -> str:
    """Describe a number of a slot, such as `50 % of B`."""
    if slot.kind != "ratio":
        return f"{_title(slot)} {value:g}"
    return f"0 % of {slot.name}, so A's own" if value == 0 and slot.name == "B" else f"{100 * value:g} % of {slot.name}"


def _title(slot: Slot) -> str:
    return f"weight of the LoRA {slot.name}" if slot.kind == "lora" else slot.name


def _without_slot(name: str, slot: Slot) -> str:
    """Return a parameter's name without that of its slot; of one number for everything, that it is one."""
    return "one number for all" if name == slot.name else name.removesuffix(f".{slot.name}")


def _ranges(names: Iterable[str], architecture: Architecture) -> str:
    """List names, with neighbours among the places as `IN00 to IN11`."""
    order = {place: index for index, place in enumerate(places(architecture))}
    runs: list[list[str]] = []
    for name in dict.fromkeys(names):
        follows = bool(runs) and name in order and order[name] - 1 == order.get(runs[-1][-1])
        if follows and name[:2] == runs[-1][-1][:2]:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(_run(run) for run in runs)


def _run(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 2 else ", ".join(names)
