"""Why a trial failed, as one of few kinds, to be counted where reasons are many."""

from __future__ import annotations

import re
from typing import Literal

FailureKind = Literal["degenerate", "out_of_memory", "scorer", "worker_died", "other"]

_KINDS: tuple[tuple[FailureKind, re.Pattern[str]], ...] = (
    ("degenerate", re.compile(r"degenerate: ")),
    ("worker_died", re.compile(r"\d+ workers died ")),
    ("out_of_memory", re.compile(r".*\bout of memory\b", re.IGNORECASE)),  # also where a scorer met with it
    ("scorer", re.compile(r"scorer ")),
)


def failure_kind(reason: str | None) -> FailureKind:
    """Read the kind off a stored reason, which is one line: the database has no column for it."""
    for kind, pattern in _KINDS:
        if pattern.match(reason or ""):
            return kind
    return "other"
