"""A gain as text, the same in terminals, on pictures and on pages."""

from __future__ import annotations

from studies.records.values import Gain


def signed(value: float) -> str:
    """Return a number with its sign and three digits, as `+1.23`."""
    return f"{value:+.3g}"


def interval_text(gain: Gain) -> str:
    """Return a gain's interval, as `+0.98 to +1.48`; empty where it has none."""
    return "" if gain.low is None or gain.high is None else f"{signed(gain.low)} to {signed(gain.high)}"


def gain_text(gain: Gain) -> str:
    """Return a gain with its interval, as `+1.23 (+0.98 to +1.48)`."""
    interval = interval_text(gain)
    return f"{signed(gain.value)} ({interval})" if interval else signed(gain.value)
