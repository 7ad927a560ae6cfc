"""Recipe: everything needed to make one merge, as a value.

A recipe is a chain of steps. Each step merges its inputs, which are parents (A, B, C ...) or results of earlier steps
(result-1, result-2 ...), by one method with numbers for every place. The merge is the last step's result plus the
LoRAs. Without steps it is parent A.

Two executors carry it out: the resident merge changes the running pipeline, the export writes a file. Ratios have
A1111's direction: 0 is a step's first input.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from basics.foreign import parse_json
from basics.messages import counted
from search_spaces.blocks import Architecture, places
from search_spaces.slots import Slot
from studies.errors import RecipeError
from studies.recipe.methods import METHODS, MethodInfo, is_random

DtypeName = Literal["fp16", "bf16", "fp32"]
# The generator of a random method's numbers. Versions that named none drew by torch's Mersenne Twister of a CPU.
DrawsName = Literal["philox4x64", "mt19937"]
DRAWS: Final = "philox4x64"
FORMER_DRAWS: Final = "mt19937"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RESULT = "result-"  # result-1 is the first step's result

# (place, one number per slot), sorted by place, with every place of the architecture exactly once
PlaceValues = tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A checkpoint that goes into the merge, identified by its content."""

    letter: str
    name: str  # file name without folder and suffix, for people
    sha256: str  # of the whole file


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a step does, without its numbers."""

    method: str
    inputs: tuple[str, ...]  # letters of parents, or result-N for the result of step N
    clip: bool = False  # whether every element is clipped to the range between the first two inputs
    seed: int = 0  # decides which elements a random method drops
    draws: str = DRAWS  # by which generator; another name than this version's can be read and shown, but not merged

    @property
    def info(self) -> MethodInfo:
        """The method's description.

        Raises:
            RecipeError: there is no such method.
        """
        if self.method not in METHODS:
            raise RecipeError(f"unknown merge method {self.method!r}: use one of {', '.join(METHODS)}")
        return METHODS[self.method]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.info.slots(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One merge of a chain."""

    operation: Operation
    values: PlaceValues

    @property
    def by_place(self) -> dict[str, tuple[float, ...]]:
        return dict(self.values)

    @property
    def has_ratio(self) -> bool:
        """Whether a ratio is not 0 in some place."""
        indices = [index for index, slot in enumerate(self.operation.slots) if slot.kind == "ratio"]
        return any(numbers[index] != 0 for _, numbers in self.values for index in indices)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraUse:
    """A LoRA baked into the merge after the last step."""

    name: str
    sha256: str
    weights: tuple[tuple[str, float], ...]  # (place, weight), sorted by place

    @property
    def by_place(self) -> dict[str, float]:
        return dict(self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedVae:
    """A VAE that replaces the merge's own."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A merge. Equal recipes over equal files give equal tensors, bit for bit, on the same device."""

    architecture: str
    parents: tuple[Parent, ...]
    steps: tuple[Step, ...] = ()
    loras: tuple[LoraUse, ...] = ()
    vae: BakedVae | None = None
    dtype: DtypeName | None = None  # of the merged tensors; None keeps parent A's, tensor by tensor

    def __post_init__(self) -> None:
        try:
            expected = places(Architecture(self.architecture))
        except ValueError:
            known = ", ".join(Architecture)
            raise RecipeError(f"unknown architecture {self.architecture!r}: use one of {known}") from None
        if not self.parents:
            raise RecipeError("a recipe needs at least one parent")
        letters = [parent.letter for parent in self.parents]
        if letters != list(LETTERS[: len(letters)]):
            raise RecipeError(f"a recipe's parents must be named A, B, C ... in order, got {', '.join(letters)}")
        if self.dtype is not None and self.dtype not in get_args(DtypeName):
            raise RecipeError(f"unknown dtype {self.dtype!r}: use one of {', '.join(get_args(DtypeName))}, or none")
        check_operations([step.operation for step in self.steps], letters)
        for number, step in enumerate(self.steps, start=1):
            _check_values(f"step {number} ({step.operation.method})", step.values, step.operation.slots, expected)
        for lora in self.loras:
            values = tuple((place, (weight,)) for place, weight in lora.weights)
            _check_values(f"LoRA {lora.name}", values, (Slot(name="weight", kind="lora", default=1.0),), expected)

    @property
    def method(self) -> str:
        """The chain's methods in order, for people."""
        return ", then ".join(step.operation.method for step in self.steps) or "parent A"

    @property
    def random_operations(self) -> tuple[Operation, ...]:
        """The random methods that drop elements: with ratios of 0 everywhere, a step is its first input."""
        return tuple(step.operation for step in self.steps if step.operation.info.random and step.has_ratio)

    @property
    def columns(self) -> dict[str, dict[str, float]]:
        """What is searched, for tables: slot -> place -> number; those of the steps in order, then LoRAs' weights."""
        columns: dict[str, dict[str, float]] = {}
        for number, step in enumerate(self.steps, start=1):
            for index, slot in enumerate(step.operation.slots):
                name = slot.name if len(self.steps) == 1 else f"{number}: {slot.name}"
                columns[name] = {place: values[index] for place, values in step.values}
        return columns | {f"LoRA {lora.name}": lora.by_place for lora in self.loras}

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, shortest exact floats, one number if it is the same in all places."""
        data = {
            "architecture": self.architecture,
            "parents": [
                {"letter": parent.letter, "name": parent.name, "sha256": parent.sha256} for parent in self.parents
            ],
            "steps": [_step_data(step) for step in self.steps],
            "loras": [
                {"name": lora.name, "sha256": lora.sha256, "weight": _collapsed(lora.by_place)} for lora in self.loras
            ],
            "vae": None if self.vae is None else {"name": self.vae.name, "sha256": self.vae.sha256},
            "dtype": self.dtype,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe from its JSON.

        Raises:
            RecipeError: the text is not a recipe.
        """
        try:
            data: dict[str, Any] = parse_json(text)
            every = places(Architecture(data["architecture"]))
            return cls(
                architecture=data["architecture"],
                parents=tuple(Parent(**_texts(parent)) for parent in data["parents"]),
                steps=tuple(_read_step(step, every) for step in data["steps"]),
                loras=tuple(
                    LoraUse(
                        name=_text(lora["name"]),
                        sha256=_text(lora["sha256"]),
                        weights=_sorted(_expanded(lora["weight"], every)),
                    )
                    for lora in data["loras"]
                ),
                vae=None if data["vae"] is None else BakedVae(**_texts(data["vae"])),
                dtype=data["dtype"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise RecipeError(f"not a recipe: {error!r}") from error


def canonical_values(values: Mapping[str, Sequence[float]]) -> PlaceValues:
    """Return values sorted by place, as plain floats without negative zero, so that equal merges have equal recipes."""
    return tuple((place, tuple(float(value) + 0.0 for value in values[place])) for place in sorted(values))


def check_operations(operations: Sequence[Operation], letters: Sequence[str]) -> None:
    """Refuse a chain of steps that does not fit together.

    Raises:
        RecipeError: a step's input does not exist, or a result other than the last is not used.
    """
    used: set[str] = set()
    known = list(letters)
    for number, operation in enumerate(operations, start=1):
        what = f"step {number} ({operation.method})"
        info = operation.info
        if not info.accepts(len(operation.inputs)):
            raise RecipeError(f"{what} takes {info.wanted_inputs} inputs, got {', '.join(operation.inputs) or 'none'}")
        for name in operation.inputs:
            if name not in known:
                written = "result" if name == f"{RESULT}0" else name
                raise RecipeError(f"{what} takes {written!r}, which does not exist before it: use {', '.join(known)}")
        if len(set(operation.inputs)) < len(operation.inputs):
            raise RecipeError(f"{what} takes an input twice: {', '.join(operation.inputs)}")
        used |= set(operation.inputs)
        known.append(f"{RESULT}{number}")
    unused = [f"{RESULT}{number}" for number in range(1, len(operations)) if f"{RESULT}{number}" not in used]
    if unused:
        raise RecipeError(
            f"{', '.join(unused)} is not used by any later step: name it among a step's inputs, or remove it"
        )


def refuse_other_draws(operations: Iterable[Operation]) -> None:
    """Refuse random methods whose numbers are those of another version.

    Raises:
        RecipeError: an operation has such numbers.
    """
    for operation in operations:
        if operation.draws != DRAWS:
            raise RecipeError(
                f"{operation.method} dropped elements by random numbers of another version ({operation.draws}, this "
                f"one draws by {DRAWS}), so this would be another merge under its name: make it with that version, "
                f"or say `draws: {DRAWS}` in a recipe file for the merge that this version makes"
            )


def _check_values(what: str, values: PlaceValues, slots: Sequence[Slot], expected: Iterable[str]) -> None:
    given, every = [place for place, _ in values], sorted(expected)
    if sorted(given) != every:
        repeated = sorted({place for place in given if given.count(place) > 1})
        missing_or_unknown = sorted(set(given) ^ set(every))
        raise RecipeError(
            f"{what}: every place needs its numbers exactly once, wrong for {', '.join(repeated or missing_or_unknown)}"
        )
    for place, numbers in values:
        if len(numbers) != len(slots):
            names = ", ".join(slot.name for slot in slots) or "none"
            raise RecipeError(f"{what}: {place} has {counted(len(numbers), 'number')}, it needs {len(slots)} ({names})")
        for slot, value in zip(slots, numbers, strict=True):
            if not slot.allows(value):
                raise RecipeError(f"{what}: {slot.name} is {value} in {place}, expected {slot.allowed}")


# --------------------------------------------------------------------------------------------- JSON


def _step_data(step: Step) -> dict[str, Any]:
    operation = step.operation
    by_place = step.by_place
    return {
        "method": operation.method,
        "inputs": list(operation.inputs),
        "clip": operation.clip,
        "seed": operation.seed,
        **({"draws": operation.draws} if operation.info.random and operation.draws != FORMER_DRAWS else {}),
        "values": {
            slot.name: _collapsed({place: numbers[index] for place, numbers in by_place.items()})
            for index, slot in enumerate(operation.slots)
        },
    }


def _texts(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in data.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"not a recipe: expected the text of a name or hash, got {reprlib.repr(value)}")
    return value


def _read_step(data: Mapping[str, Any], every: Sequence[str]) -> Step:
    method = str(data["method"])
    operation = Operation(
        method=method,
        inputs=tuple(data["inputs"]),
        clip=bool(data["clip"]),
        seed=int(data["seed"]),
        draws=_text(data.get("draws", FORMER_DRAWS)) if is_random(method) else DRAWS,
    )
    given = {name: _expanded(value, every) for name, value in data["values"].items()}
    slots = [slot.name for slot in operation.slots]
    if set(given) != set(slots):
        raise RecipeError(f"{operation.method} takes the numbers {', '.join(slots)}, got {', '.join(given)}")
    values = {place: tuple(given[name][place] for name in slots) for place in every}
    return Step(operation=operation, values=canonical_values(values))


def _collapsed(numbers: Mapping[str, float]) -> float | dict[str, float]:
    """Return one number if it is the same in all places; 0 and -0 are the same, as are 1 and 1.0."""
    plain = {place: float(number) + 0.0 for place, number in numbers.items()}
    different = set(plain.values())
    return different.pop() if len(different) == 1 else plain


def _expanded(value: Any, every: Sequence[str]) -> dict[str, float]:
    """Return a number for every place: the inverse of `_collapsed`."""
    if isinstance(value, Mapping):
        if set(value) != set(every):
            raise RecipeError(f"expected a number for each of {', '.join(every)}, got {', '.join(value)}")
        return {place: float(number) for place, number in value.items()}
    return dict.fromkeys(every, float(value))


def _sorted(numbers: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(numbers.items()))
