"""The steps of a chain of merges, as a user writes them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from basics.settings import FrozenSettings
from studies.recipe.methods import is_random
from studies.recipe.recipe import DRAWS, RESULT, Operation


class StepSettings(FrozenSettings):
    """One step of a chain of merges."""

    method: str = "weighted_sum"
    inputs: tuple[str, ...] | None = None  # parents by letter, or result-N of step N; None: all parents
    clip: bool = False  # whether to clip every element to the range between the first two inputs
    seed: int = Field(default=0, ge=0, lt=2**31)  # for methods that drop elements at random


def operations_of(steps: Sequence[StepSettings], letters: Sequence[str], draws: str = DRAWS) -> tuple[Operation, ...]:
    """Return the steps with their inputs written out: by default all parents; `result` is the previous step's.

    Args:
        draws: the generator of the random methods' numbers.
    """
    return tuple(
        Operation(
            method=step.method,
            inputs=tuple(
                f"{RESULT}{index}" if name == "result" else name
                for name in (letters if step.inputs is None else step.inputs)
            ),
            clip=step.clip,
            seed=step.seed,
            draws=draws if is_random(step.method) else DRAWS,
        )
        for index, step in enumerate(steps)
    )
