"""The axes of a plot as they are typed, `NAME=VALUES`, before anything is known of the models.

Values are a list, `0,0.25,0.5`, in which `0:1:5` stands for five from 0 to 1, evenly spaced, and a text with commas is
written in quotation marks; an empty one is `""`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from basics.percent import from_percent
from basics.texts import shortened
from optimizer.errors import PlotError

MOST_VALUES: Final = 200  # of an axis: more could not be looked at
_NUMBER: Final = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# Of a list, with the comma after it: a text in quotation marks, in which two stand for one, or anything else.
_ENTRY: Final = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^,]*))(?:,|\Z)')
_RANGE: Final = re.compile(rf"\s*{_NUMBER}(%?)\s*:\s*{_NUMBER}(%?)\s*:\s*(\d+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a plot."""

    option: str  # with which it was given, for messages
    name: str
    values: tuple[str, ...]  # as they are typed, ranges written out; empty: all that the suite has


def read_axis(text: str, option: str) -> Axis:
    """Read an axis, such as `text_encoder=0:1:5`; a name alone stands for all the values that the suite has.

    Raises:
        PlotError: there is no name, no value, or more than `MOST_VALUES`.
    """
    name, equals, rest = text.partition("=")
    if not name.strip():
        raise PlotError(f"{option}: expected NAME=VALUES such as text_encoder=0:1:5, got {shortened(text)!r}")
    axis = Axis(option=option, name=name.strip(), values=tuple(_values(rest, option)) if equals else ())
    if equals and not axis.values:
        raise PlotError(f"{option}: {axis.name} has no values: write a list ({axis.name}=0,0.5,1) or a range (0:1:5)")
    if len(axis.values) > MOST_VALUES:
        raise PlotError(f"{option}: {axis.name} has {len(axis.values)} values, at most {MOST_VALUES} can be looked at")
    if len(set(axis.values)) < len(axis.values):
        double = next(value for value in axis.values if axis.values.count(value) > 1)
        raise PlotError(f"{option}: {axis.name} has the value {double} twice: leave one of them out")
    return axis


def number_of(value: str) -> float | None:
    """Return the number that a value is, a percentage as a share of 1; None if it is none."""
    try:
        number = float(from_percent(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _values(text: str, option: str) -> Iterator[str]:
    """Yield the values of a list, ranges written out.

    Raises:
        PlotError: a quotation mark is not closed, or a range has fewer than 2 values or too many.
    """
    for entry in _ENTRY.finditer(text):
        quoted, plain = entry["quoted"], (entry["plain"] or "").strip()
        if quoted is not None:
            yield quoted.replace('""', '"')
        elif plain.startswith('"'):
            raise PlotError(
                f"{option}: {shortened(text)!r} cannot be read as a list: a quotation mark is not closed, or is not "
                "followed by a comma"
            )
        elif found := _RANGE.fullmatch(plain):
            yield from _range(found, option)
        elif plain:
            yield plain


def _range(found: re.Match[str], option: str) -> Iterator[str]:
    """Yield the values of a range, both ends among them."""
    low, high, count = Fraction(found[1]), Fraction(found[3]), int(found[5])
    if not 2 <= count <= MOST_VALUES:
        raise PlotError(
            f"{option}: {found[0].strip()} has {count} values: write FROM:TO:COUNT, with a count of 2 or more"
        )
    if bool(found[2]) != bool(found[4]):
        raise PlotError(f"{option}: {found[0].strip()} mixes numbers with percentages: write both ends alike")
    between = ((low + (high - low) * index / (count - 1)) for index in range(1, count - 1))
    for number in (found[1], *map(_written, between), found[3]):
        yield f"{number}{found[2]}"


def _written(number: Fraction) -> str:
    """Return a number as it is typed: a whole one with all of its digits."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.6g}"
