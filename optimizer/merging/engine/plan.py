"""A recipe's steps for one place, simplified.

A step whose ratios are all 0 is replaced by its first input, and a step whose ratio of 1 selects one input by that
input. A copy preserves -0 and does not let a NaN of an unused input through, which arithmetic would. Steps whose
results are no longer used are removed. Both executors carry out the same plan, so they do the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from studies.recipe.recipe import RESULT, Operation, Recipe, Step, refuse_other_draws

FOLDED = frozenset({"weighted_sum", "sum_twice"})  # one formula, with an input dropped where its ratio is 0
VAE_SOURCE = "vae"  # name of a baked VAE among the sources


WeightedLoras = tuple[tuple[int, float], ...]
"""(Index of a LoRA, weight) of each LoRA, without those of weight 0."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step with its values for one place."""

    operation: Operation
    values: tuple[float, ...]
    result: str


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """The steps that compute one place of a merge; equal plans over equal sources give equal tensors."""

    steps: tuple[PlannedStep, ...]
    final: str  # a parent's letter, or the result of the last step
    loras: WeightedLoras = ()  # by their index among the recipe's

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
    """Return the simplified plan of every place that the recipe names.

    Raises:
        RecipeError: its random methods have numbers of another version, see `refuse_other_draws`.
    """
    refuse_other_draws(recipe.random_operations)
    steps = [(step, step.by_place) for step in recipe.steps]
    lora_weights = [lora.by_place for lora in recipe.loras]
    places = {place for _, by_place in steps for place in by_place}
    places |= {place for by_place in lora_weights for place in by_place}
    first = recipe.parents[0].letter
    return {
        place: replace(
            _simplify(first, [(step, by_place[place]) for step, by_place in steps]),
            loras=tuple(
                (index, by_place[place]) for index, by_place in enumerate(lora_weights) if by_place[place] != 0
            ),
        )
        for place in sorted(places)
    }


def _simplify(first: str, steps: Sequence[tuple[Step, tuple[float, ...]]]) -> PlacePlan:
    """Plan one place.

    Args:
        first: the letter of parent A, which is the result where there are no steps.
        steps: every step of the recipe with its values for this place, in order.
    """
    same_as: dict[str, str] = {}  # result of a step -> the source or result it equals
    planned_steps: list[PlannedStep] = []
    final = first
    for number, (step, values) in enumerate(steps, start=1):
        result = f"{RESULT}{number}"
        inputs = tuple(same_as.get(name, name) for name in step.operation.inputs)
        planned = _simplify_step(replace(step.operation, inputs=inputs), values, step.operation, result)
        if isinstance(planned, str):
            same_as[result] = planned
        else:
            planned_steps.append(planned)
        final = same_as.get(result, result)
    return PlacePlan(_used_steps(planned_steps, final), final)


def _simplify_step(
    operation: Operation, values: tuple[float, ...], written: Operation, result: str
) -> PlannedStep | str:
    """Return the step that remains, or the name of the input that it equals.

    Args:
        operation: with inputs replaced by what they equal.
        written: as it stands in the recipe; `values` belong to its slots.
        result: name of the step's result.
    """
    ratios = [value for slot, value in zip(written.slots, values, strict=True) if slot.kind == "ratio"]
    if ratios and not any(ratios):
        return operation.inputs[0]
    if operation.method in FOLDED and not operation.clip:
        return _fold(operation, values, result)
    if operation.info.ends_in and len(ratios) == 1 and ratios[0] == 1:
        return operation.inputs[1]
    return PlannedStep(operation, values, result)


def _fold(operation: Operation, values: tuple[float, ...], result: str) -> PlannedStep | str:
    """Begin a weighted sum with the last input whose ratio is 1, and leave out inputs whose ratio is 0."""
    first, active = operation.inputs[0], list[tuple[str, float]]()
    for name, ratio in zip(operation.inputs[1:], values, strict=True):
        if ratio == 1:
            first, active = name, []
        elif ratio != 0 and (active or name != first):  # a result that equals a parent may be summed with that parent
            active.append((name, ratio))
    if not active:
        return first
    inputs = (first, *(name for name, _ in active))
    return PlannedStep(
        replace(operation, method="weighted_sum", inputs=inputs), tuple(ratio for _, ratio in active), result
    )


def _used_steps(steps: Sequence[PlannedStep], final: str) -> tuple[PlannedStep, ...]:
    """Return the steps that `final` depends on, in order."""
    needed_names, used = {final}, list[PlannedStep]()
    for step in reversed(steps):
        if step.result in needed_names:
            used.append(step)
            needed_names |= set(step.operation.inputs)
    return tuple(reversed(used))
