"""The failure of a trial: its kind, by which failures are counted, and its reason, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["broken_weights", "degenerate", "out_of_memory", "scorer", "worker_died", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a trial failed."""

    kind: FailureKind
    reason: str  # one line, for people
