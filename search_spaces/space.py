"""The search space: it converts between the parameters of a trial and the numbers of every place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from search_spaces.blocks import Architecture, places
from search_spaces.errors import OutsideSpaceError, RatioError
from search_spaces.parameters import Parameter, fixed_cells, granularity_of, parameters_of
from search_spaces.presets import resolved
from search_spaces.settings import SpaceSettings
from search_spaces.slots import Slot, beyond_usual

__all__ = ["Parameter", "SearchSpace", "Slot", "SpaceSettings"]

NumbersByPlace = Mapping[str, tuple[float, ...]]  # place -> one number per slot


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The numbers that a study searches. Use `build` to make one.

    A *slot* is one number of every place: a ratio of the merge, a parameter of its method, or the weight of a LoRA.
    With several ratio slots, a parameter has a name such as `IN00.B`. One number for everything has its slot's name.
    """

    settings: SpaceSettings = field(hash=False)  # with the preset filled in, as a study stores them
    architecture: Architecture
    slots: tuple[Slot, ...]
    parameters: tuple[Parameter, ...]  # ordered by their first place: text encoders, blocks by depth, vae
    fixed: tuple[tuple[str, int, float], ...]  # (place, slot, number), in the order of places and slots

    @classmethod
    def build(cls, settings: SpaceSettings, architecture: Architecture, slots: Sequence[Slot]) -> Self:
        """Work out what the settings mean for one architecture and one merge.

        Raises:
            SpaceError: the settings contradict themselves or the architecture; see errors.py for the kinds.
        """
        effective = resolved(settings, architecture)
        fixed = fixed_cells(effective, architecture, slots)
        return cls(
            settings=effective,
            architecture=architecture,
            slots=tuple(slots),
            parameters=parameters_of(effective, architecture, slots),
            fixed=tuple(
                (place, index, fixed[place, index])
                for place in places(architecture)
                for index in range(len(slots))
                if (place, index) in fixed
            ),
        )

    @property
    def ratio_slots(self) -> tuple[int, ...]:
        """Indices of the ratio slots, in which 0 keeps parent A."""
        return tuple(index for index, slot in enumerate(self.slots) if slot.kind == "ratio")

    @property
    def auto_slots(self) -> frozenset[int]:
        """Indices of the slots with `granularity: auto`, whose blocks the sampler ties by section at first."""
        return frozenset(
            index for index, slot in enumerate(self.slots) if granularity_of(slot, self.settings) == "auto"
        )

    @property
    def unusual(self) -> tuple[str, ...]:
        """The numbers that are far outside of what merges use, one line each: see `beyond_usual`."""
        numbers = [(self.slots[index], place, "held at", value) for place, index, value in self.fixed]
        numbers += [
            (self.slots[parameter.slot], parameter.name, "searched to", bound)
            for parameter in self.parameters
            for bound in (parameter.low, parameter.high)
        ]
        found = [(slot, where, verb, value, beyond_usual(slot.kind, value)) for slot, where, verb, value in numbers]
        return tuple(
            f"{where if where == slot.name else f'{where}, {slot.name}'} is {verb} {value:g}, {why}"
            for slot, where, verb, value, why in found
            if why is not None
        )

    def numbers_by_place(self, params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        """Return the numbers of every place, one for each slot, fixed ones included.

        Raises:
            RatioError: a parameter is missing or unknown, or its value is not finite or out of bounds.
        """
        _check_names("parameters", params, (parameter.name for parameter in self.parameters))
        # Every NaN is overwritten below: a cell is either fixed or belongs to one parameter.
        numbers = {place: [math.nan] * len(self.slots) for place in places(self.architecture)}
        for place, index, value in self.fixed:
            numbers[place][index] = value
        for parameter in self.parameters:
            value = params[parameter.name]
            if not parameter.low <= value <= parameter.high:  # false for NaN as well
                raise RatioError(_out_of_bounds(parameter, value))
            for place in parameter.places:
                numbers[place][parameter.slot] = float(value)
        return {place: tuple(own) for place, own in numbers.items()}

    def params(self, numbers: NumbersByPlace) -> dict[str, float]:
        """Return the parameters that give exactly these numbers: the inverse of `numbers_by_place`.

        Raises:
            RatioError: a place is missing or unknown, or its numbers are too few, too many or not finite.
            OutsideSpaceError: no parameters of this space give these numbers; use `nearest`.
        """
        self._check_numbers(numbers)
        for place, index, value in self.fixed:
            if numbers[place][index] != value:
                raise OutsideSpaceError(f"{place} is frozen to {value}, got {numbers[place][index]}")
        return {parameter.name: _shared_value(parameter, numbers) for parameter in self.parameters}

    def nearest(self, numbers: NumbersByPlace) -> dict[str, float]:
        """Return the parameters whose numbers are closest to these in the least-squares sense.

        That is the mean over each parameter's places, clipped to its bounds. Fixed numbers are ignored.

        Raises:
            RatioError: a place is missing or unknown, or its numbers are too few, too many or not finite.
        """
        self._check_numbers(numbers)
        return {parameter.name: _clipped_mean(parameter, numbers) for parameter in self.parameters}

    def profile_numbers(self, ratios: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        """Put one ratio for each place into every ratio slot; other slots take their fixed number or their default."""
        fixed = {(place, index): value for place, index, value in self.fixed}
        return {
            place: tuple(
                ratio if slot.kind == "ratio" else fixed.get((place, index), slot.default)
                for index, slot in enumerate(self.slots)
            )
            for place, ratio in ratios.items()
        }

    def _check_numbers(self, numbers: NumbersByPlace) -> None:
        _check_names("places", numbers, places(self.architecture))
        for place, values in numbers.items():
            if len(values) != len(self.slots):
                names = ", ".join(slot.name for slot in self.slots)
                raise RatioError(f"{place}: expected one number per slot ({names}), got {values}")
            if not all(math.isfinite(value) for value in values):
                raise RatioError(f"{place}: expected finite numbers, got {values}")


def _shared_value(parameter: Parameter, numbers: NumbersByPlace) -> float:
    """Return the value that all places of a parameter share.

    Raises:
        OutsideSpaceError: the places have different values, or the value is out of bounds.
    """
    first = parameter.places[0]
    value = numbers[first][parameter.slot]
    for place in parameter.places:
        other = numbers[place][parameter.slot]
        if other != value:
            raise OutsideSpaceError(
                f"{parameter.name}: {first} and {place} share one ratio, got {value} and {other}",
            )
    if not parameter.low <= value <= parameter.high:
        raise OutsideSpaceError(_out_of_bounds(parameter, value))
    return value


def _clipped_mean(parameter: Parameter, numbers: NumbersByPlace) -> float:
    values = [numbers[place][parameter.slot] for place in parameter.places]
    mean = math.fsum(values) / len(values)
    return min(max(mean, parameter.low), parameter.high)


def _out_of_bounds(parameter: Parameter, value: float) -> str:
    return f"{parameter.name}: expected a number in [{parameter.low}, {parameter.high}], got {value}"


def _check_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse missing and unknown names.

    Raises:
        RatioError: the given names are not exactly the expected ones.
    """
    names, known = set(given), set(expected)
    differences = [
        f"{problem} {', '.join(sorted(different))}"
        for problem, different in (("missing", known - names), ("unknown", names - known))
        if different
    ]
    if differences:
        raise RatioError(f"expected exactly the {what} of this space: {'; '.join(differences)}")
