"""A recipe's steps in one place, reduced to the work that is left to do.

A step whose ratios are all 0 is its first input, not arithmetic, and one whose ratio of 1 takes an input alone is
that input: a copy keeps -0 as it is and lets no NaN of an unused input through. Steps that nothing needs any more
vanish. Both executors work from the same plan, so they take the same path through the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from studies.recipe.recipe import RESULT, Operation, Recipe, Step

FOLDED = frozenset({"weighted_sum", "sum_twice"})  # one formula, with an input dropped where its ratio is 0
VAE_SOURCE = "vae"  # name of a baked VAE among the sources


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step with its numbers of one place."""

    operation: Operation
    values: tuple[float, ...]
    result: str


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """What makes one place of a merge; equal plans over equal sources give equal tensors."""

    steps: tuple[PlannedStep, ...]
    final: str  # a parent's letter, or the result of the last step
    loras: tuple[tuple[int, float], ...] = ()  # (index among the recipe's LoRAs, weight), without those of weight 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The parents it reads, sorted."""
        made = {step.result for step in self.steps}
        read = {name for step in self.steps for name in step.operation.inputs} | {self.final}
        return tuple(sorted(read - made))

    @property
    def elementwise(self) -> bool:
        """Whether every element follows from the same element of the sources."""
        return all(step.operation.info.scope == "element" for step in self.steps)


def plan_places(recipe: Recipe) -> dict[str, PlacePlan]:
    """Place -> what is to be done there."""
    steps = [(step, step.by_place) for step in recipe.steps]
    weights = [lora.by_place for lora in recipe.loras]
    places = {place for _, by_place in steps for place in by_place} | {place for row in weights for place in row}
    first = recipe.parents[0].letter
    return {
        place: replace(
            _reduced(first, [(step, by_place[place]) for step, by_place in steps]),
            loras=tuple((index, row[place]) for index, row in enumerate(weights) if row[place] != 0),
        )
        for place in sorted(places)
    }


def _reduced(first: str, rows: Sequence[tuple[Step, tuple[float, ...]]]) -> PlacePlan:
    same_as: dict[str, str] = {}  # result of a step -> the source or result it equals
    steps: list[PlannedStep] = []
    final = first
    for number, (step, values) in enumerate(rows, start=1):
        result = f"{RESULT}{number}"
        inputs = tuple(same_as.get(name, name) for name in step.operation.inputs)
        planned = _planned(replace(step.operation, inputs=inputs), values, step.operation, result)
        if isinstance(planned, str):
            same_as[result] = planned
        else:
            steps.append(planned)
        final = same_as.get(result, result)
    return PlacePlan(_needed(steps, final), final)


def _planned(operation: Operation, values: tuple[float, ...], written: Operation, result: str) -> PlannedStep | str:
    """The step, or the name of the input that it is."""
    slots = written.slots
    ratios = [value for slot, value in zip(slots, values, strict=True) if slot.kind == "ratio"]
    if ratios and not any(ratios):
        return operation.inputs[0]
    if operation.method in FOLDED and not operation.clip:
        return _folded(operation, values, result)
    if operation.info.ends_in and len(ratios) == 1 and ratios[0] == 1:
        return operation.inputs[1]
    return PlannedStep(operation, values, result)


def _folded(operation: Operation, values: tuple[float, ...], result: str) -> PlannedStep | str:
    """A folded sum begins with the last input whose ratio is 1, and leaves out those whose ratio is 0."""
    first, active = operation.inputs[0], list[tuple[str, float]]()
    for name, ratio in zip(operation.inputs[1:], values, strict=True):
        if ratio == 1:
            first, active = name, []
        elif ratio != 0 and (active or name != first):  # results that are parents may meet themselves
            active.append((name, ratio))
    if not active:
        return first
    inputs = (first, *(name for name, _ in active))
    return PlannedStep(
        replace(operation, method="weighted_sum", inputs=inputs), tuple(ratio for _, ratio in active), result
    )


def _needed(steps: Sequence[PlannedStep], final: str) -> tuple[PlannedStep, ...]:
    wanted, kept = {final}, list[PlannedStep]()
    for step in reversed(steps):
        if step.result in wanted:
            kept.append(step)
            wanted |= set(step.operation.inputs)
    return tuple(reversed(kept))
