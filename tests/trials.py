"""Trials as they are read back from a database, for tests of code that only reads them."""

from __future__ import annotations

from search_spaces.blocks import Architecture, places
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values
from studies.records.origins import Origin
from studies.records.values import State, StoredTrial


def trial(number: int, origin: str = "gp", state: State = "complete", **objectives: float) -> StoredTrial:
    """Return a trial with a unique recipe."""
    values = canonical_values(dict.fromkeys(places(Architecture.SD15), (number / 100,)))
    step = Step(operation=Operation(method="weighted_sum", inputs=("A", "B")), values=values)
    parents = tuple(Parent(letter=letter, name=letter, sha256=letter) for letter in "AB")
    return StoredTrial(
        id=number + 1,
        number=number,
        origin=Origin.parse(origin),
        recipe_text=Recipe(architecture="sd15", parents=parents, steps=(step,)).to_json(),
        worker_id="w",
        attempt=1,
        state=state,
        reason=None,
        objectives=objectives,
        gains={},
        seconds={},
        machine={},
        contact_sheet=None,
        started_at=0.0,
        finished_at=1.0,
    )
