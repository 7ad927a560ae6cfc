"""The Pareto front of a study, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from optimizer.cli.common import console, escaped
from optimizer.trial.front import chosen_trial, front_of
from optimizer.trial.ranking import best_trials

if TYPE_CHECKING:
    from optimizer.trial.objective import Objective
    from studies.records.values import StoredTrial


def print_front(rows: Sequence[StoredTrial], objective: Objective, weights: Mapping[str, float] | None) -> None:
    """Every member of the Pareto front, what is taken for the best, and the front's volume."""
    front = front_of(rows, objective)
    best = chosen_trial(rows, objective, weights)
    if front is None or best is None:
        return
    table = Table(title="Pareto front: no trial is better in every objective", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("what")
    for name, direction in zip(objective.names, objective.directions, strict=True):
        table.add_column(
            f"{escaped(name)} ({'higher' if direction == 'maximize' else 'lower'} is better)", justify="right"
        )
    table.add_column("")
    for row in front.members:
        roles = ["best"] if row is best else []
        roles += ["knee"] if row is front.knee else []
        values = [f"{row.objectives[name]:.4g}" for name in objective.names]
        table.add_row(str(row.number), escaped(row.title), *values, ", ".join(roles))
    console.print(table)
    if front.reference is None or front.volume is None:
        return
    worst = ", ".join(f"{name} {value:.4g}" for name, value in front.reference.items())
    share = "" if front.share is None else f", {100 * front.share:.1f} % of the box up to the best of each"
    told = f"hypervolume {front.volume:.4g}{share}, above the worst parent in each ({worst})"
    console.print(escaped(told), soft_wrap=True)


def print_choice(
    rows: Sequence[StoredTrial], objective: Objective, best: StoredTrial, weights: Mapping[str, float] | None
) -> None:
    """Which member of a front was taken, and by what; nothing for a single objective."""
    if len(objective.names) == 1:
        return
    others = ", ".join(str(row.number) for row in best_trials(rows, objective) if row is not best)
    by = "its knee" if weights is None else "these weights"
    rest = f"; the others with --trial: {others}" if others else ""
    console.print(escaped(f"best of the front by {by} is trial {best.number}{rest}"), soft_wrap=True)
