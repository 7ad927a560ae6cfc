"""The Pareto front of a study, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimizer.cli.common import console, escaped
from optimizer.cli.views.tables import FoldingTable
from optimizer.trial.front import front_of
from optimizer.trial.ranking import best_trials

if TYPE_CHECKING:
    from optimizer.trial.best import Best
    from optimizer.trial.objective import Objective
    from studies.records.values import StoredTrial


def print_front(trials: Sequence[StoredTrial], objective: Objective, best: Best | None) -> None:
    """Print every member of the Pareto front, the one that counts as the best, and the hypervolume."""
    front = front_of(trials, objective)
    if front is None or best is None:
        return
    table = FoldingTable("Pareto front: no trial is better in every objective")
    table.head("trial", justify="right")
    table.head("origin")
    for name, direction in zip(objective.names, objective.directions, strict=True):
        table.head(f"{escaped(name)} ({'higher' if direction == 'maximize' else 'lower'} is better)", justify="right")
    table.head("")
    for trial in front.members:
        roles = ["best"] if trial.number == best.trial.number else []
        roles += ["knee"] if trial is front.knee else []
        values = [f"{trial.objectives[name]:.4g}" for name in objective.names]
        table.add_row(str(trial.number), escaped(trial.title), *values, ", ".join(roles))
    console.print(table)
    if best.passed_over or best.caveat is not None:
        print_choice(trials, objective, best)
    if front.reference is None or front.volume is None:
        return
    worst = ", ".join(f"{name} {value:.4g}" for name, value in front.reference.items())
    share = "" if front.share is None else f", {100 * front.share:.1f} % of the box up to the best of each"
    volume = f"hypervolume {front.volume:.4g}{share}, relative to the worst parent in each ({worst})"
    console.print(escaped(volume), soft_wrap=True)


def print_choice(trials: Sequence[StoredTrial], objective: Objective, best: Best) -> None:
    """Print which member of a front was chosen, and how; nothing for a single objective."""
    if len(objective.names) == 1:
        return
    number = best.trial.number
    others = ", ".join(str(trial.number) for trial in best_trials(trials, objective) if trial.number != number)
    by = {"knee": " by its knee", "weights": " by these weights"}.get(best.by, "")
    rest = f"; choose another with --trial: {others}" if others else ""
    over = ", ".join(str(trial.number) for trial in best.passed_over)
    passed = f"; passed over, as they surely lose to the better parent in an objective: {over}" if over else ""
    console.print(escaped(f"best of the front{by} is trial {number}{passed}{rest}"), soft_wrap=True)
