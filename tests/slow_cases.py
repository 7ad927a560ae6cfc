"""Cases of a parametrised test of which only a few are fast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_fast(number: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases of a parametrised test, marked slow but for so many at the beginning.

    Args:
        cases: values of one argument, or tuples with a value for each of several.
    """
    listed = list(cases)
    return listed[:number] + [_slow(case) for case in listed[number:]]


def slow_but(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the values of one argument, marked slow but for those that are named."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
