"""Small merges, for tests that look at what comes after the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from optimizer.merging.checkpoint import Checkpoint
from optimizer.merging.ingredients import Ingredients
from optimizer.merging.parents import Parents
from optimizer.merging.resident import ResidentModel
from optimizer.rendering.models import live_dtypes
from search_spaces.blocks import places
from studies.recipe import Operation, Parent, Recipe, Step, canonical_values

CPU = torch.device("cpu")


def resident_of(
    parents: Sequence[Checkpoint], device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> ResidentModel:
    """The parents in the device's memory, parent A live and computing in `dtype` where the device can."""
    dtypes = live_dtypes(device, dtype)
    return ResidentModel(Ingredients(Parents.of(parents)), device=device, live_dtypes=dtypes)


def weighted(resident: ResidentModel, ratios: Mapping[str, float] | float) -> Recipe:
    """A weighted sum of parents A and B; a place that is not named has A's values."""
    every = places(resident.architecture)
    named = ratios if isinstance(ratios, Mapping) else dict.fromkeys(every, ratios)
    return Recipe(
        architecture=resident.architecture.value,
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "AB"),
        steps=(
            Step(
                operation=Operation(method="weighted_sum", inputs=("A", "B")),
                values=canonical_values({place: (named.get(place, 0.0),) for place in every}),
            ),
        ),
    )
