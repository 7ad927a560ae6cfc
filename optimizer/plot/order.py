"""The order in which cells are rendered: from one merge to the next, as few places as possible change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.plot.tables import Cell, Identity
from search_spaces.blocks import Architecture, places
from studies.recipe.recipe import Recipe


def in_merge_order(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return every cell once, those of one merge together, and after each merge the one that is nearest to it.

    Two merges are as far apart as the number of places in which their plans differ. The first is nearest to parent A,
    which is live when the models are loaded. Ties go to the earlier cell.
    """
    by_merge: dict[str, dict[Identity, Cell]] = {}
    for cell in cells:
        by_merge.setdefault(cell.recipe.digest, {}).setdefault(cell.identity, cell)
    groups = [tuple(group.values()) for group in by_merge.values()]
    numbered = _numbered([group[0].recipe for group in groups])
    return tuple(cell for index in _nearest_next(numbered) for cell in groups[index])


def _numbered(recipes: Sequence[Recipe]) -> NDArray[np.int64]:
    """Return a number for the plan of each merge in each place, [merges, places]: 0 for parent A, equal if equal."""
    numbers: dict[PlacePlan, int] = {PlacePlan((), "A"): 0}
    rows = []
    for recipe in recipes:
        plans = plan_places(recipe)
        every = [plans.get(place, PlacePlan((), "A")) for place in places(Architecture(recipe.architecture))]
        rows.append([numbers.setdefault(plan, len(numbers)) for plan in every])
    return np.array(rows, dtype=np.int64)


def _nearest_next(numbered: NDArray[np.int64]) -> list[int]:
    """Return the rows in order: each time the remaining one that differs least from the last, at first from zeros."""
    remaining, order = list(range(len(numbered))), list[int]()
    last = np.zeros(numbered.shape[1:], dtype=np.int64)
    while remaining:
        differing = (numbered[remaining] != last).sum(axis=1)
        order.append(remaining.pop(int(differing.argmin())))
        last = numbered[order[-1]]
    return order
