"""Which study a worker of many turns to next.

Studies of the highest priority come first. Among equals the workers spread: each goes where the fewest are. A worker
stays at its study as long as there is work, for turning to another may mean loading gigabytes; only after a while does
it give way to a study that nobody works on, or that has fewer workers than its own would keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLICE_SECONDS = 600.0  # at one study while another of the same priority waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A study that has something to do."""

    study: int  # its id
    priority: int
    others: int  # workers at it beside the one that asks


def choose(candidates: Sequence[Candidate], current: int | None, seconds: float) -> int | None:
    """The study to turn to, or to stay at; None where there is nothing to do.

    Args:
        candidates: in a fixed order, that of their ids.
        current: the study that the worker is at.
        seconds: for how long.
    """
    highest = max((row.priority for row in candidates), default=0)
    equals = [row for row in candidates if row.priority == highest]
    here = next((row for row in equals if row.study == current), None)
    if here is not None:
        waiting = [row for row in equals if row is not here and (row.others == 0 or row.others < here.others)]
        if seconds < SLICE_SECONDS or not waiting:
            return here.study
        equals = waiting
    fewest = min((row.others for row in equals), default=0)
    emptiest = [row.study for row in equals if row.others == fewest]
    later = [study for study in emptiest if current is not None and study > current]  # round and round
    return next(iter(later or emptiest), None)
