"""Numbers as a report writes them."""

from __future__ import annotations

from studies.records.values import Gain

MINUS = "−"  # U+2212, as wide as a plus


def signed(value: float) -> str:
    """Return a number with its sign and three digits, such as `+1.23`."""
    return f"{value:+.3g}".replace("-", MINUS)


def plain_number(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}".replace("-", MINUS)


def decimals(value: float) -> str:
    """Return a ratio or weight with three decimals."""
    return f"{value:.3f}".replace("-", MINUS)


def interval(gain: Gain) -> str:
    """Return a gain's interval, such as `+0.98 to +1.48`; empty where it has none."""
    return "" if gain.low is None or gain.high is None else f"{signed(gain.low)} to {signed(gain.high)}"


def with_interval(gain: Gain) -> str:
    """Return a gain with its interval, such as `+1.23 (+0.98 to +1.48)`."""
    return f"{signed(gain.value)} ({interval(gain)})" if interval(gain) else signed(gain.value)
