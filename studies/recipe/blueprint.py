"""Blueprint: a recipe without its numbers, which are what a study searches.

The numbers of one place, over all steps and LoRAs, form one tuple. The names of its slots are unique.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from basics.messages import counted
from search_spaces.blocks import Architecture, places
from search_spaces.slots import Slot
from studies.errors import RecipeError
from studies.recipe.recipe import (
    RESULT,
    BakedVae,
    DtypeName,
    LoraUse,
    Operation,
    Parent,
    Recipe,
    Step,
    canonical_values,
    check_operations,
)

NumbersByPlace = Mapping[str, tuple[float, ...]]  # place -> one number per slot of the blueprint


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A LoRA of a study."""

    slot: str  # the name of its weight in the search
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A recipe without its numbers."""

    architecture: Architecture
    parents: tuple[Parent, ...]
    operations: tuple[Operation, ...]
    loras: tuple[LoraFile, ...] = ()
    vae: BakedVae | None = None
    only_vae: bool = False  # whether `vae` is the only one, as no parent has its own
    dtype: DtypeName | None = None

    def recipe(self, numbers: NumbersByPlace) -> Recipe:
        """Return the recipe with these numbers.

        Raises:
            RecipeError: a place is missing or unknown, or has too few, too many or invalid numbers.
        """
        counts = [len(operation.slots) for operation in self.operations]
        starts = [0, *accumulate(counts)]
        wanted = starts[-1] + len(self.loras)
        for place, own in numbers.items():
            if len(own) != wanted:
                raise RecipeError(f"{place} has {counted(len(own), 'number')}, the steps and LoRAs take {wanted}")
        steps = tuple(
            Step(
                operation=operation,
                values=canonical_values({place: own[start : start + count] for place, own in numbers.items()}),
            )
            for operation, start, count in zip(self.operations, starts, counts, strict=False)
        )
        loras = tuple(
            LoraUse(
                name=lora.name,
                sha256=lora.sha256,
                weights=tuple((place, float(numbers[place][starts[-1] + index])) for place in sorted(numbers)),
            )
            for index, lora in enumerate(self.loras)
        )
        return self._of(steps, loras)

    def parent(self, letter: str) -> Parent:
        """Return a parent by its letter."""
        return next(parent for parent in self.parents if parent.letter == letter)

    def parent_alone(self, letter: str) -> Recipe:
        """Return the recipe of one parent, with its own VAE if it has one and without LoRAs: what merges must beat."""
        if letter == self.parents[0].letter:
            return self._alone(())
        copy = Operation(method="weighted_sum", inputs=(self.parents[0].letter, letter))
        numbers = dict.fromkeys(places(self.architecture), (1.0,))
        return self._alone((Step(operation=copy, values=canonical_values(numbers)),))

    def _alone(self, steps: tuple[Step, ...]) -> Recipe:
        recipe = self._of(steps, ())
        return recipe if self.only_vae else replace(recipe, vae=None)

    def _of(self, steps: tuple[Step, ...], loras: tuple[LoraUse, ...]) -> Recipe:
        return Recipe(
            architecture=self.architecture.value,
            parents=self.parents,
            steps=steps,
            loras=loras,
            vae=self.vae,
            dtype=self.dtype,
        )


def slots_of(operations: Sequence[Operation], letters: Sequence[str], loras: Sequence[str] = ()) -> tuple[Slot, ...]:
    """Return the slots of all steps, then of the LoRAs. A name that several steps share gets the step's number: `B-2`.

    Raises:
        RecipeError: the steps do not fit together.
    """
    check_operations(operations, letters)
    numbered = [(number, slot) for number, operation in enumerate(operations, start=1) for slot in operation.slots]
    counts = Counter(slot.name for _, slot in numbered)
    unique = [
        replace(slot, name=f"{slot.name}-{number}") if counts[slot.name] > 1 else slot for number, slot in numbered
    ]
    weights = [Slot(name=name, kind="lora", default=1.0, description="weight of the LoRA") for name in loras]
    return (*unique, *weights)


def alone_numbers(
    operations: Sequence[Operation], letters: Sequence[str], letter: str
) -> tuple[float | None, ...] | None:
    """Return the ratios with which a chain yields one parent alone.

    Returns:
        One entry per slot of the steps, None for slots that are not ratios. None as a whole if no ratios yield the
        parent, because it only serves as a base of differences, or because a method has no ratio.
    """
    passed: dict[str, str] = {name: name for name in letters}  # input or result -> the parent that it equals, if any
    own: list[float | None] = []
    last = letters[0]
    for number, operation in enumerate(operations, start=1):
        ratios = [slot for slot in operation.slots if slot.kind == "ratio"]
        wanted = next((name for name in operation.inputs if passed.get(name) == letter), operation.inputs[0])
        if wanted != operation.inputs[0] and not operation.info.ends_in:
            wanted = operation.inputs[0]
        own += [(1.0 if slot.name == wanted else 0.0) if slot.kind == "ratio" else None for slot in operation.slots]
        last = passed.get(wanted, "") if ratios else ""
        passed[f"{RESULT}{number}"] = last
    return tuple(own) if last == letter else None
