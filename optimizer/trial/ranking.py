"""Rank the trials of a study: which are parents, and which are best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimizer.trial.objective import Objective
from studies.records.values import Gain, StoredTrial


def parent_trials(trials: Sequence[StoredTrial]) -> dict[str, StoredTrial]:
    """Map each parent's letter to the trial of that parent alone."""
    return {letter: trial for trial in trials if (letter := trial.origin.parent) is not None}


def complete_parents(trials: Sequence[StoredTrial]) -> dict[str, StoredTrial]:
    """Map the letter of each parent whose trial is complete to that trial."""
    return {letter: trial for letter, trial in parent_trials(trials).items() if trial.state == "complete"}


def best_trials(trials: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
    """Return the best trial of the full suite, or the Pareto front of several objectives.

    Ties go to the earlier trial.
    """
    complete = [trial for trial in trials if trial.is_whole]
    if len(objective.names) == 1:
        return sorted(complete, key=lambda trial: (-_signed(trial, objective)[0], trial.number))[:1]
    front: list[StoredTrial] = []
    for trial in complete:
        if not any(_dominates(other, trial, objective) for other in front):
            front = [other for other in front if not _dominates(trial, other, objective)] + [trial]
    return front


def best_gains(trials: Iterable[StoredTrial]) -> dict[str, Gain]:
    """Map each objective to the best gain over the better parent, of all trials of the full suite but the parents."""
    best: dict[str, Gain] = {}
    for trial in trials:
        if trial.is_whole and trial.origin.parent is None:
            for name in trial.objectives.keys() & trial.gains.keys():
                best[name] = max(best.get(name, trial.gains[name]), trial.gains[name], key=lambda gain: gain.value)
    return best


def stopped_after(trial: StoredTrial, items: int) -> str:
    """Describe a trial that racing stopped, such as `stopped after 16 of 64 images`; empty for other trials."""
    return f"stopped after {trial.rendered} of {items} images" if trial.estimated else ""


def would_be_best(values: Mapping[str, float], trials: Sequence[StoredTrial], objective: Objective) -> bool:
    """Return whether a new trial with these objective values would be among the best."""
    candidate = _signed_values(values, objective)
    complete = [_signed(trial, objective) for trial in trials if trial.is_whole]
    return not any(all(theirs >= ours for theirs, ours in zip(other, candidate, strict=True)) for other in complete)


def _signed(trial: StoredTrial, objective: Objective) -> tuple[float, ...]:
    return _signed_values(trial.objectives, objective)


def _signed_values(values: Mapping[str, float], objective: Objective) -> tuple[float, ...]:
    """Negate minimised objectives, so that more is always better."""
    return tuple(
        values[name] if direction == "maximize" else -values[name]
        for name, direction in zip(objective.names, objective.directions, strict=True)
    )


def _dominates(one: StoredTrial, other: StoredTrial, objective: Objective) -> bool:
    """Return whether one trial dominates the other; of equal trials the earlier one does."""
    ours, theirs = _signed(one, objective), _signed(other, objective)
    at_least_as_good = all(a >= b for a, b in zip(ours, theirs, strict=True))
    return at_least_as_good and (ours != theirs or one.number < other.number)
