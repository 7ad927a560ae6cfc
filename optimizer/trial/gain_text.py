"""A gain as text, the same in terminals, on pictures and on pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from studies.records.values import Gain
from studies.spec.suite import SuiteSettings


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


def basis_notes(gains: Iterable[Mapping[str, Gain]], suite: SuiteSettings) -> Iterator[str]:
    """Say of which scores the intervals are over votes, or over images and why; nothing where all are over prompts.

    Args:
        gains: of some trials, by name.
        suite: whose images they are of.
    """
    found = {name: gain for of_trial in gains for name, gain in of_trial.items() if gain.low is not None}
    if voted := [name for name, gain in found.items() if gain.basis == "votes"]:
        yield f"the interval of {', '.join(voted)} is over people's votes: it narrows as more of them vote"
    if not suite.has_alike_prompts:
        return
    if any(gain.basis is None for gain in found.values()):
        yield (
            "intervals are over images, as an earlier version had it, and too narrow for other prompts: they are "
            "computed anew over prompts when the study goes on or holds its final"
        )
    names = [name for name, gain in found.items() if gain.basis == "images"]
    if len(names) == len(found) and names:
        yield "all images have one prompt, so intervals are over images: they say nothing about other prompts"
    elif names:
        yield (
            f"one prompt is all that counts in {', '.join(names)}, so its interval is over images and says nothing "
            "about other prompts"
        )
