"""A gain as one text, the same in terminals and on pictures."""

from __future__ import annotations

from studies.records.values import Gain


def gain_text(gain: Gain) -> str:
    """Return a gain with its interval, as `+1.23 (+0.98 to +1.48)`."""
    interval = "" if gain.low is None or gain.high is None else f" ({gain.low:+.3g} to {gain.high:+.3g})"
    return f"{gain.value:+.3g}{interval}"
