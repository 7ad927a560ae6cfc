"""When a study ends: by trials, by images, or by minutes of work, whichever comes first."""

from __future__ import annotations

from collections.abc import Sequence

from studies.results import StoredTrial
from studies.spec import StudySpec


def spent(spec: StudySpec, rows: Sequence[StoredTrial], asked: int) -> str | None:
    """What is spent, in words; None while a new trial may begin. Trials taken over from another study cost nothing.

    Args:
        rows: the trials that were begun.
        asked: trials that Optuna has, among them those that are about to begin.
    """
    budget, own = spec.budget, own_trials(rows)
    asked -= len(rows) - len(own)
    if asked >= budget.trials:
        return f"{budget.trials} trials"
    if budget.images is not None and images_of(own) >= budget.images:
        return f"{budget.images} images"
    if budget.minutes is not None and minutes_of(own) >= budget.minutes:
        return f"{budget.minutes:g} minutes of work"
    return None


def own_trials(rows: Sequence[StoredTrial]) -> list[StoredTrial]:
    """Those that were not taken over."""
    return [row for row in rows if row.source is None]


def images_of(rows: Sequence[StoredTrial]) -> int:
    """Rendered by finished trials; one that failed or was stopped may have fewer than the suite has items."""
    return sum(row.rendered for row in rows if row.state != "running")


def minutes_of(rows: Sequence[StoredTrial]) -> float:
    """From each finished trial's beginning to its end, over all workers."""
    return sum(row.finished_at - row.started_at for row in rows if row.finished_at is not None) / 60
