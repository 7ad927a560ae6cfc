"""What the values of an axis change: numbers of a merge, or a setting of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from basics.messages import unknown_name
from basics.texts import shortened
from optimizer.errors import PlotError
from optimizer.plot.axes import Axis, number_of
from optimizer.plot.suites import SETTINGS, own_values, setting_of, settings_changed, with_setting
from search_spaces.blocks import VAE, Architecture, places
from search_spaces.errors import SpaceError
from search_spaces.parameters import Cell, matching_cells
from search_spaces.patterns import collective_names
from search_spaces.slots import Slot, beyond_usual
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import NumbersByPlace
from studies.spec.suite import SuiteSettings

LABEL_CHARACTERS = 80  # of a value in a heading


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A merge by its numbers, and what is rendered of it."""

    numbers: NumbersByPlace
    suite: SuiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberChange:
    """One number in some cells of a merge."""

    label: str
    cells: frozenset[Cell]
    number: float
    unusual: str | None  # how far it is outside of what merges use, and what may have been meant

    def applied(self, variant: Variant) -> Variant:
        """Return the variant with this number in these cells."""
        numbers = {
            place: tuple(self.number if (place, index) in self.cells else value for index, value in enumerate(own))
            for place, own in variant.numbers.items()
        }
        return replace(variant, numbers=numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteChange:
    """One setting of the suite."""

    label: str
    setting: str
    value: str

    def suite_of(self, suite: SuiteSettings) -> SuiteSettings:
        """Return the suite with this setting.

        Raises:
            PlotError: the suite cannot have this value.
        """
        return with_setting(suite, self.setting, self.value)

    def applied(self, variant: Variant) -> Variant:
        """Return the variant with this setting.

        Raises:
            PlotError: as for `suite_of`.
        """
        return replace(variant, suite=self.suite_of(variant.suite))


Change = NumberChange | SuiteChange


def suite_changes(axis: Axis, suite: SuiteSettings) -> tuple[SuiteChange, ...] | None:
    """Return the changes of an axis over a setting of the suite; None where it is over numbers of the merge.

    Raises:
        PlotError: the suite cannot have a value, or no value is given.
    """
    setting = setting_of(axis.name)
    if setting is None:
        return None
    values = axis.values or own_values(suite, setting)
    if not values:
        raise PlotError(f"{axis.option}: {axis.name} has no values: write {axis.name}=VALUE,VALUE,...")
    changes = []
    for value in values:
        try:
            with_setting(suite, setting, value)
        except PlotError as error:
            raise PlotError(f"{axis.option}: {error}") from error
        label = f"{setting} {_shown(setting, value, suite)}"
        changes.append(SuiteChange(label=label, setting=setting, value=value))
    return tuple(changes)


def _shown(setting: str, value: str, suite: SuiteSettings) -> str:
    """Return a value for a heading: of a prompt by number also its text."""
    if setting == "prompt" and value.isdecimal():
        return f"{value}: {shortened(suite.prompts[int(value) - 1].prompt, LABEL_CHARACTERS)}"
    return shortened(value, LABEL_CHARACTERS) or '""'


def number_changes(axis: Axis, space: SearchSpace, *, bakes_vae: bool) -> tuple[NumberChange, ...]:
    """Return the changes of an axis over ratios, parameters of the method or LoRA weights.

    A ratio of the VAE is among them where it is named, as `vae` or `vae.B`, or where the space searches it.

    Args:
        bakes_vae: whether every merge gets another VAE.

    Raises:
        PlotError: the name matches nothing, is that of several ratios or of one that changes nothing, or a value is
            none that the slot allows.
    """
    slots = space.slots
    cells = _cells(axis, space.architecture, slots)
    others = frozenset(cell for cell in cells if cell[0] != VAE or slots[cell[1]].kind != "ratio")
    if bakes_vae and not others:
        raise PlotError(
            f"{axis.option}: {axis.name} changes nothing, as the spec gives every merge the VAE of `vae`: leave one of "
            "the two out"
        )
    if others and not any(VAE in parameter.places for parameter in space.parameters):
        cells = others
    if not axis.values:
        raise PlotError(f"{axis.option}: {axis.name} has no values: write {axis.name}=0:1:5, or a list")
    return tuple(_number_change(axis, value, cells, slots) for value in axis.values)


def _cells(axis: Axis, architecture: Architecture, slots: Sequence[Slot]) -> frozenset[Cell]:
    names = [slot.name for slot in slots]
    pattern = f"*.{axis.name}" if axis.name in names else axis.name
    ratios = [slot.name for slot in slots if slot.kind == "ratio"]
    try:
        cells = matching_cells(pattern, architecture, slots, axis.option)
    except SpaceError:
        known = (*places(architecture), *collective_names(architecture), *names, *SETTINGS)
        where = axis.name if "." not in axis.name or axis.name in names else axis.name.rpartition(".")[0]
        raise PlotError(
            f"{axis.option}: {axis.name!r} is no block or pattern of blocks ({architecture}), no number of this merge "
            f"and no setting of the suite: {unknown_name(where, known)}"
        ) from None
    if "." not in pattern and len(ratios) != 1:
        several = f"has several ratios: write {axis.name}.{ratios[0]}" if ratios else "has no ratios"
        raise PlotError(f"{axis.option}: this merge {several}; its numbers are {', '.join(names)}")
    return frozenset(cells)


def _number_change(axis: Axis, value: str, cells: frozenset[Cell], slots: Sequence[Slot]) -> NumberChange:
    slot, number = slots[next(iter(cells))[1]], number_of(value)
    if number is None or not slot.allows(number):
        raise PlotError(f"{axis.option}: {axis.name} is {value!r}, expected a number or a percentage: {slot.allowed}")
    far = beyond_usual(slot.kind, number)
    return NumberChange(
        label=f"{axis.name} {value}",
        cells=cells,
        number=number,
        unusual=None if far is None else f"{axis.option}: {axis.name} is {value}, {far}",
    )


def refuse_overlaps(axes: Sequence[Sequence[Change]], options: Sequence[str]) -> None:
    """Refuse two axes that change the same.

    Raises:
        PlotError: two do.
    """
    for (one, first), (other, second) in combinations(zip(options, axes, strict=True), 2):
        if both := sorted(_changed(first) & _changed(second)):
            raise PlotError(f"{one} and {other} both change {both[0][0]}: give each axis something of its own")


def _changed(axis: Sequence[Change]) -> frozenset[tuple[str, int]]:
    """Return the cells that an axis changes with any of its values, or its settings, which have no slot."""
    found = set[tuple[str, int]]()
    for change in axis:
        if isinstance(change, SuiteChange):
            found |= {(setting, -1) for setting in settings_changed(change.setting, change.value)}
        else:
            found |= change.cells
    return frozenset(found)
