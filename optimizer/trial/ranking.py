"""Which trials of a study are parents, and which are best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimizer.trial.objective import Objective
from studies.records.values import Gain, StoredTrial


def parent_trials(trials: Sequence[StoredTrial]) -> dict[str, StoredTrial]:
    """Parent letter -> the trial that is that parent alone."""
    return {letter: trial for trial in trials if (letter := trial.origin.parent) is not None}


def best_trials(trials: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
    """The best whole trial, or the Pareto front of several objectives; ties go to the earlier trial."""
    complete = [trial for trial in trials if trial.is_whole]
    if len(objective.names) == 1:
        return sorted(complete, key=lambda trial: (-_signed(trial, objective)[0], trial.number))[:1]
    front: list[StoredTrial] = []
    for trial in complete:
        if not any(_dominates(other, trial, objective) for other in front):
            front = [other for other in front if not _dominates(trial, other, objective)] + [trial]
    return front


def best_gains(trials: Iterable[StoredTrial]) -> dict[str, Gain]:
    """Objective -> the best gain over the better parent, of all whole trials but the parents' own."""
    found: dict[str, Gain] = {}
    for trial in trials:
        if trial.is_whole and trial.origin.parent is None:
            for name in trial.objectives.keys() & trial.gains.keys():
                found[name] = max(found.get(name, trial.gains[name]), trial.gains[name], key=lambda gain: gain.value)
    return found


def stopped_after(trial: StoredTrial, items: int) -> str:
    """`stopped after 16 of 64 images` for a trial that racing ended; empty for others."""
    return f"stopped after {trial.rendered} of {items} images" if trial.estimated else ""


def would_be_best(values: Mapping[str, float], trials: Sequence[StoredTrial], objective: Objective) -> bool:
    """Whether a new trial with these objective values would be among the best."""
    ours = _signed_values(values, objective)
    complete = [_signed(trial, objective) for trial in trials if trial.is_whole]
    return not any(all(theirs >= mine for theirs, mine in zip(other, ours, strict=True)) for other in complete)


def _signed(trial: StoredTrial, objective: Objective) -> tuple[float, ...]:
    return _signed_values(trial.objectives, objective)


def _signed_values(values: Mapping[str, float], objective: Objective) -> tuple[float, ...]:
    """Objective values with more always better."""
    return tuple(
        values[name] if direction == "maximize" else -values[name]
        for name, direction in zip(objective.names, objective.directions, strict=True)
    )


def _dominates(one: StoredTrial, other: StoredTrial, objective: Objective) -> bool:
    ours, theirs = _signed(one, objective), _signed(other, objective)
    at_least = all(a >= b for a, b in zip(ours, theirs, strict=True))
    return at_least and (ours != theirs or one.number < other.number)
