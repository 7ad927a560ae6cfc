"""Rank the trials of a study: which are parents, and which are best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimizer.trial.constraints import nearest
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

    It is chosen among the feasible trials; where there is none, among those that come nearest to it. Ties go to the
    earlier trial.
    """
    complete = eligible([trial for trial in trials if trial.is_whole], objective)
    if len(objective.names) == 1:
        return sorted(complete, key=lambda trial: (-_signed(trial, objective)[0], trial.number))[:1]
    front: list[StoredTrial] = []
    for trial in complete:
        if not any(_dominates(other, trial, objective) for other in front):
            front = [other for other in front if not _dominates(trial, other, objective)] + [trial]
    return front


def eligible(trials: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
    """Return the trials that are feasible; where none is, those that come nearest to it."""
    found = nearest([trial.constrained for trial in trials], objective.constraints)
    return [trials[index] for index in found]


def is_feasible(trial: StoredTrial, objective: Objective) -> bool:
    """Return whether a trial keeps every constraint; one that was stopped, as far as is known of it."""
    return objective.constraints.keeps(trial.constrained)


def whole_merges(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Return the complete trials of the full suite that are no parents."""
    return [trial for trial in trials if trial.is_whole and trial.origin.parent is None]


def best_gains(trials: Iterable[StoredTrial], objective: Objective) -> dict[str, Gain]:
    """Map each objective to the best gain over the better parent, of all feasible trials but the parents.

    Those that racing stopped do not count.
    """
    best: dict[str, Gain] = {}
    for trial in whole_merges(trials):
        if is_feasible(trial, objective):
            for name in trial.objectives.keys() & trial.gains.keys():
                best[name] = max(best.get(name, trial.gains[name]), trial.gains[name], key=lambda gain: gain.value)
    return best


def stopped_after(trial: StoredTrial, items: int) -> str:
    """Describe a trial that racing stopped, such as `stopped after 16 of 64 images`; empty for other trials."""
    return f"stopped after {trial.rendered} of {items} images" if trial.estimated else ""


def would_be_best(
    values: Mapping[str, float],
    trials: Sequence[StoredTrial],
    objective: Objective,
    constrained: Mapping[str, float] | None = None,
) -> bool:
    """Return whether a new trial with these objective values would be among the best.

    Args:
        constrained: its mean of every scorer that has a constraint.
    """
    candidate = _signed_values(values, objective)
    before = eligible([trial for trial in trials if trial.is_whole], objective)
    violation = objective.constraints.violation(constrained or {})
    least = min((objective.constraints.violation(trial.constrained) for trial in before), default=violation)
    if violation != least:
        return violation < least
    others = (_signed(trial, objective) for trial in before)
    return not any(all(theirs >= ours for theirs, ours in zip(other, candidate, strict=True)) for other in others)


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
