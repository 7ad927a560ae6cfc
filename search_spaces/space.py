"""The search space: trial parameters <-> the ratio of every place."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from search_spaces.blocks import Architecture, places
from search_spaces.errors import OutsideSpaceError, RatioError
from search_spaces.parameters import Parameter, fixed_ratios, parameters_of
from search_spaces.presets import resolved
from search_spaces.settings import SpaceSettings

__all__ = ["Parameter", "SearchSpace", "SpaceSettings"]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Which ratios a study searches. Made by `build`.

    A *slot* is one ratio of the merge method: ("B",) for A and B, ("B", "C") for three parents folded in
    order, ("difference",) for add difference. With several slots a parameter is called `IN00.B`.
    """

    settings: SpaceSettings = field(hash=False)  # with the preset filled in: what a study should store
    architecture: Architecture
    slots: tuple[str, ...]
    parameters: tuple[Parameter, ...]  # ordered by their first place: text encoders, blocks by depth, vae
    fixed: tuple[tuple[str, float], ...]  # (place, ratio in every slot)

    @classmethod
    def build(cls, settings: SpaceSettings, architecture: Architecture, slots: tuple[str, ...]) -> Self:
        """Work out what the settings mean for one architecture and one merge method.

        Raises:
            SpaceError: the settings contradict themselves or the architecture; see errors.py for the kinds.
        """
        effective = resolved(settings, architecture)
        return cls(
            settings=effective,
            architecture=architecture,
            slots=slots,
            parameters=parameters_of(effective, architecture, slots),
            fixed=tuple(fixed_ratios(effective, architecture).items()),
        )

    def ratios(self, params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        """Return the ratios, one per slot, of every place of the architecture, frozen ones included.

        Raises:
            RatioError: a parameter is missing or unknown, or its value is not finite or out of bounds.
        """
        _check_names("parameters", params, (parameter.name for parameter in self.parameters))
        fixed = dict(self.fixed)
        # Each nan is overwritten below: a place is either fixed or in one parameter of every slot.
        rows = {place: [fixed.get(place, math.nan)] * len(self.slots) for place in places(self.architecture)}
        for parameter in self.parameters:
            value = params[parameter.name]
            if not parameter.low <= value <= parameter.high:  # false for nan, too
                raise RatioError(_out_of_bounds(parameter, value))
            for place in parameter.places:
                rows[place][parameter.slot] = float(value)
        return {place: tuple(row) for place, row in rows.items()}

    def params(self, ratios: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
        """Return the parameters that give exactly these ratios: the inverse of `ratios`.

        Raises:
            RatioError: a place is missing or unknown, or its ratios are too few, too many or not finite.
            OutsideSpaceError: no parameters of this space give these ratios; `nearest` would.
        """
        self._check_ratios(ratios)
        for place, ratio in self.fixed:
            if any(value != ratio for value in ratios[place]):
                raise OutsideSpaceError(f"{place} is frozen to {ratio}, got {ratios[place]}")
        return {parameter.name: _shared_value(parameter, ratios) for parameter in self.parameters}

    def nearest(self, ratios: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
        """Return the parameters whose ratios are closest to these in the least-squares sense.

        That is the mean over each parameter's places, clipped to its bounds. What is frozen is not compared.

        Raises:
            RatioError: a place is missing or unknown, or its ratios are too few, too many or not finite.
        """
        self._check_ratios(ratios)
        return {parameter.name: _clipped_mean(parameter, ratios) for parameter in self.parameters}

    def _check_ratios(self, ratios: Mapping[str, tuple[float, ...]]) -> None:
        _check_names("places", ratios, places(self.architecture))
        for place, values in ratios.items():
            if len(values) != len(self.slots):
                raise RatioError(
                    f"{place}: expected one ratio per slot ({', '.join(self.slots)}), got {values}",
                )
            if not all(math.isfinite(value) for value in values):
                raise RatioError(f"{place}: expected finite ratios, got {values}")


def _shared_value(parameter: Parameter, ratios: Mapping[str, tuple[float, ...]]) -> float:
    """Return the one value that all places of a parameter have."""
    first = parameter.places[0]
    value = ratios[first][parameter.slot]
    for place in parameter.places:
        other = ratios[place][parameter.slot]
        if other != value:
            raise OutsideSpaceError(
                f"{parameter.name}: {first} and {place} share one ratio, got {value} and {other}",
            )
    if not parameter.low <= value <= parameter.high:
        raise OutsideSpaceError(_out_of_bounds(parameter, value))
    return value


def _clipped_mean(parameter: Parameter, ratios: Mapping[str, tuple[float, ...]]) -> float:
    values = [ratios[place][parameter.slot] for place in parameter.places]
    mean = math.fsum(values) / len(values)
    return min(max(mean, parameter.low), parameter.high)


def _out_of_bounds(parameter: Parameter, value: float) -> str:
    return f"{parameter.name}: expected a ratio in [{parameter.low}, {parameter.high}], got {value}"


def _check_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse names that are missing or too many."""
    names, known = set(given), set(expected)
    complaints = [
        f"{complaint} {', '.join(sorted(different))}"
        for complaint, different in (("missing", known - names), ("unknown", names - known))
        if different
    ]
    if complaints:
        raise RatioError(f"expected exactly the {what} of this space: {'; '.join(complaints)}")
