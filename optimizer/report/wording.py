"""Numbers as a report writes them: as everywhere, but with a minus as wide as a plus."""

from __future__ import annotations

from optimizer.trial import gain_text
from studies.records.values import Gain

MINUS = "−"  # U+2212, as wide as a plus


def signed(value: float) -> str:
    """Return a number with its sign and three digits, such as `+1.23`."""
    return _with_minus(gain_text.signed(value))


def plain_number(value: float) -> str:
    """Return a number with four digits."""
    return _with_minus(f"{value:.4g}")


def decimals(value: float) -> str:
    """Return a ratio or weight with three decimals."""
    return _with_minus(f"{value:.3f}")


def interval(gain: Gain) -> str:
    """Return a gain's interval, such as `+0.98 to +1.48`; empty where it has none."""
    return _with_minus(gain_text.interval_text(gain))


def with_interval(gain: Gain) -> str:
    """Return a gain with its interval, such as `+1.23 (+0.98 to +1.48)`."""
    return _with_minus(gain_text.gain_text(gain))


def _with_minus(number: str) -> str:
    return number.replace("-", MINUS)
