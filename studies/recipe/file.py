"""Recipe files: one merge as a user writes it, in YAML or JSON; and how a recipe is written to such a file.

A recipe file gives files by path, and numbers by pattern, preset or block-weight string. It becomes a `Recipe` once the
architecture and the files' hashes are known. Unknown keys are refused; relative paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from basics.messages import unknown_name
from basics.percent import from_percent
from basics.settings import FrozenSettings, explain
from basics.texts import visible
from scorers.config import SpecPath
from search_spaces.block_presets import block_preset, preset_ratios
from search_spaces.block_weights import leaves_out_base, parse_block_weights
from search_spaces.blocks import UNET, VAE, Architecture, blocks, places, sections, text_encoders
from search_spaces.errors import SpaceError
from search_spaces.patterns import collective_names, matching_places
from search_spaces.slots import Slot, beyond_usual
from studies.errors import RecipeError
from studies.recipe.methods import is_random
from studies.recipe.recipe import (
    DRAWS,
    LETTERS,
    RESULT,
    BakedVae,
    DrawsName,
    DtypeName,
    LoraUse,
    Operation,
    Parent,
    Recipe,
    Step,
    canonical_values,
    check_operations,
)
from studies.recipe.steps import StepSettings, operations_of
from studies.system.documents import parse_json, parse_yaml, read_text
from studies.system.texts import unquoted_text

PRESET, BASE = "preset", "base"  # keys of a mapping that are not patterns
LORA_WEIGHT: Final = Slot(name="weight", kind="lora", default=1.0, description="weight of the LoRA")
EXPECTED: Final = "expected a number, a mapping of patterns to numbers, or block weights as 26, 25, 20 or 19 numbers"
SHA256_DIGITS: Final = 64


# ------------------------------------------------------------------------------- numbers as written


def _checked_numbers(value: Any) -> float | str | dict[str, Any]:
    """Return one number, block weights as text, or a mapping.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Mapping) and value:
        return {str(key): _checked_entry(str(key), entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return ",".join(repr(_checked_number(entry)) for entry in value)
    if isinstance(value, str) and "," in value:
        return value
    return _checked_number(value)


def _checked_entry(key: str, value: Any) -> float | str:
    if key != PRESET:
        return _checked_number(value)
    if not isinstance(value, str):
        msg = f"expected the name of a preset, got {value!r}"
        raise ValueError(msg)
    block_preset(value)
    return value


def _checked_number(value: Any) -> float:
    value = from_percent(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = f"; got {value!r} in it" if isinstance(value, str) else ""
        raise ValueError(EXPECTED + found)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(EXPECTED) from None


Numbers = Annotated[Any, AfterValidator(_checked_numbers)]


def expand(written: Any, slot: Slot, architecture: Architecture, where: str) -> dict[str, float]:
    """Return the number of every place.

    Args:
        written: one number for all places (as a ratio, it leaves the VAE at 0), block weights as text (never for the
            VAE), or a mapping of patterns (see `matching_places`) to numbers. Later patterns win over earlier ones, and
            all over the block weights of a `preset` with its `base`. Other places get the slot's default, for a LoRA 0.
        slot: the slot of these numbers.
        where: where they are written, for messages.

    Raises:
        RecipeError: a pattern matches nothing, the number of block weights is wrong, or a number is not allowed.
    """
    numbers = dict.fromkeys(places(architecture), 0.0 if slot.kind == "lora" else slot.default)
    try:
        if isinstance(written, Mapping):
            _fill_by_pattern(numbers, written, architecture, where)
        elif isinstance(written, str):
            numbers |= _named_by_weights(written, architecture)
        else:
            numbers |= {place: float(written) for place in numbers if slot.kind != "ratio" or place != VAE}
    except SpaceError as error:
        message = str(error)
        raise RecipeError(message if message.startswith(where) else f"{where}: {message}") from error
    for place, number in numbers.items():
        if not slot.allows(number):
            raise RecipeError(f"{where} is {number:g} in {place}, expected {slot.allowed}")
    return numbers


def _fill_by_pattern(
    numbers: dict[str, float], written: Mapping[str, Any], architecture: Architecture, where: str
) -> None:
    if PRESET in written:
        ratios = preset_ratios(written[PRESET], architecture, written.get(BASE))
        numbers |= {place: ratio for place, ratio in ratios.items() if place != VAE}
    elif BASE in written:
        raise RecipeError(f"{where}: `base` goes with `preset`; for the text encoders alone write `text_encoder*`")
    for pattern, number in written.items():
        if pattern not in {PRESET, BASE}:
            numbers |= dict.fromkeys(matching_places(pattern, architecture, where), number)


def _named_by_weights(text: str, architecture: Architecture) -> dict[str, float]:
    """Return the ratios of the places that block weights name; without BASE, they name no text encoder."""
    ratios = parse_block_weights(text, architecture)
    unnamed = {VAE, *(text_encoders(architecture) if leaves_out_base(text, architecture) else ())}
    return {place: ratio for place, ratio in ratios.items() if place not in unnamed}


def shorten(numbers: Mapping[str, float], slot: Slot, architecture: Architecture) -> float | dict[str, float]:
    """Write numbers as shortly as possible, so that `expand` restores them."""
    first = numbers[blocks(architecture)[0]]
    for short in (first, {"*": first}):
        if expand(short, slot, architecture, slot.name) == dict(numbers):
            return short
    rest = 0.0 if slot.kind == "lora" else slot.default
    groups = collective_names(architecture)
    in_sections = [
        name
        for section in sections(architecture)
        for name in _if_uniform(section, groups[section], numbers) or groups[section]
    ]
    names = _if_uniform(UNET, groups[UNET], numbers) or in_sections
    short = {name: numbers[groups.get(name, (name,))[0]] for name in (*text_encoders(architecture), *names, VAE)}
    return {name: number for name, number in short.items() if number != rest}


def _if_uniform(name: str, members: Sequence[str], numbers: Mapping[str, float]) -> list[str]:
    """Return the group's name if all its members have the same number; else nothing."""
    return [name] if len({numbers[place] for place in members}) == 1 else []


# ----------------------------------------------------------------------------------------- the file


def _checked_sha256(text: str) -> str:
    if len(text) != SHA256_DIGITS or not set(text.lower()) <= set("0123456789abcdef"):
        msg = f"expected the file's sha256, {SHA256_DIGITS} hexadecimal digits"
        raise ValueError(msg)
    return text.lower()


class FileEntry(FrozenSettings):
    """A file by its path, and by its content if `sha256` is given. Its short form is the path alone."""

    path: SpecPath
    sha256: Annotated[str, AfterValidator(_checked_sha256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, cls)) else {"path": value}

    def require(self, what: str, sha256: str) -> None:
        """Refuse a file with another sha256 than the recipe gives.

        Raises:
            RecipeError: it differs.
        """
        if self.sha256 not in {None, sha256}:
            raise RecipeError(
                f"{what} ({self.path}) is not the file that the recipe names: its sha256 is {sha256[:10]}..., expected "
                f"{(self.sha256 or '')[:10]}...; give that file, or leave its sha256 out of the recipe"
            )


class LoraEntry(FileEntry):
    """A LoRA that is baked in after the last step."""

    weight: Numbers = 1.0


class StepEntry(StepSettings):
    """One step with its numbers."""

    values: Mapping[str, Numbers] = Field(default_factory=dict)  # by slot
    ratio: Numbers = None  # for a method that has a single ratio


STEP_KEYS: Final = frozenset(StepEntry.model_fields)


class RecipeFile(StepEntry):
    """A recipe file. The keys of a single step may stand at its top level instead of under `steps`."""

    parents: Mapping[str, FileEntry]
    steps: tuple[StepEntry, ...] | None = None
    loras: tuple[LoraEntry, ...] = ()
    vae: FileEntry | None = None  # replaces the merge's own
    dtype: DtypeName | None = None  # of the merged tensors; None keeps parent A's, tensor by tensor
    draws: DrawsName | None = None  # the generator of random methods' numbers; None: this version's

    @field_validator("parents", mode="before")
    @classmethod
    def _by_letter(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        if len(value) > len(LETTERS):
            msg = f"a merge takes 1 to {len(LETTERS)} parents, the recipe names {len(value)}"
            raise ValueError(msg)
        return dict(zip(LETTERS, value, strict=False))

    @field_validator("parents")
    @classmethod
    def _in_order(cls, value: Mapping[str, FileEntry]) -> Mapping[str, FileEntry]:
        expected = list(LETTERS[: len(value)])
        if not value or sorted(value) != expected:
            msg = f"expected parents named A, B, C ... without a gap, got {', '.join(value) or 'none'}"
            raise ValueError(msg)
        return {letter: value[letter] for letter in expected}

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.steps is not None and (beside_steps := sorted(self.model_fields_set & STEP_KEYS)):
            msg = f"`{beside_steps[0]}` stands beside `steps`: move it into one of the steps"
            raise ValueError(msg)
        if self.steps is None and not self.model_fields_set & STEP_KEYS and len(self.parents) > 1:
            msg = "it does not say how the parents are merged: give `method` with `ratio` or `values`, or `steps`"
            raise ValueError(msg)
        try:
            operations = self.operations
            check_operations(operations, self.letters)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        self._require_draws()
        for number, (entry, operation) in enumerate(zip(self.entries, operations, strict=True), start=1):
            _written_values(_step_name(number, operation), entry, operation, number)
        return self

    def _require_draws(self) -> None:
        """Refuse a recipe that means one merge, as it gives its parents' content, but not by which numbers.

        Versions that drew other numbers wrote such files.
        """
        random = [entry.method for entry in self.entries if is_random(entry.method)]
        if self.draws is None and random and any(parent.sha256 is not None for parent in self.parents.values()):
            msg = (
                f"it gives the sha256 of its parents, but not the random numbers by which {random[0]} drops elements, "
                f"and an earlier version drew others: write `draws: {DRAWS}` for those of this version"
            )
            raise ValueError(msg)

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(self.parents)

    @property
    def entries(self) -> tuple[StepEntry, ...]:
        """The steps, whether written under `steps` or at the top level."""
        if self.steps is not None:
            return self.steps
        return (self,) if self.model_fields_set & STEP_KEYS else ()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The chain of merges."""
        return operations_of(self.entries, self.letters, self.draws or DRAWS)

    def chain(self, architecture: Architecture) -> tuple[Step, ...]:
        """Return the steps with the numbers of every place.

        Raises:
            RecipeError: a pattern matches nothing in this architecture, or a number is not allowed.
        """
        numbered = enumerate(zip(self.entries, self.operations, strict=True), start=1)
        return tuple(_step(number, entry, operation, architecture) for number, (entry, operation) in numbered)

    def lora_weights(self, architecture: Architecture) -> tuple[Mapping[str, float], ...]:
        """Return place -> weight for every LoRA.

        Raises:
            RecipeError: as `chain`.
        """
        return tuple(
            expand(lora.weight, LORA_WEIGHT, architecture, f"LoRA {lora.path.name}, weight") for lora in self.loras
        )

    def unusual(self, architecture: Architecture) -> list[str]:
        """Return the numbers that are far outside of what merges use, one line each: see `beyond_usual`.

        Raises:
            RecipeError: as `chain`.
        """
        steps = [
            (f"{_step_name(number, step.operation)}, {slot.name}", slot.kind, place, numbers[index])
            for number, step in enumerate(self.chain(architecture), start=1)
            for index, slot in enumerate(step.operation.slots)
            for place, numbers in step.values
        ]
        loras = [
            (f"LoRA {lora.path.name}", LORA_WEIGHT.kind, place, weight)
            for lora, weights in zip(self.loras, self.lora_weights(architecture), strict=True)
            for place, weight in weights.items()
        ]
        found = [(what, place, number, beyond_usual(kind, number)) for what, kind, place, number in (*steps, *loras)]
        return [f"{what} is {number:g} in {place}, {why}" for what, place, number, why in found if why is not None]

    def recipe(
        self,
        architecture: Architecture,
        parents: Sequence[Parent],
        loras: Sequence[tuple[str, str]] = (),
        vae: BakedVae | None = None,
    ) -> Recipe:
        """Return the recipe over opened files.

        Args:
            architecture: of the parents.
            parents: name and hash of each, in the order of `letters`.
            loras: (name, sha256) of each, in the file's order.
            vae: name and hash of `vae`.

        Raises:
            RecipeError: a file's sha256 is not the one that the recipe gives, or as `chain`.
        """
        for parent in parents:
            self.parents[parent.letter].require(f"parent {parent.letter}", parent.sha256)
        for entry, (name, sha256) in zip(self.loras, loras, strict=True):
            entry.require(f"LoRA {name}", sha256)
        if self.vae is not None and vae is not None:
            self.vae.require("the VAE", vae.sha256)
        weights = self.lora_weights(architecture)
        return Recipe(
            architecture=architecture.value,
            parents=tuple(parents),
            steps=self.chain(architecture),
            loras=tuple(
                LoraUse(name=name, sha256=sha256, weights=tuple(sorted(by_place.items())))
                for (name, sha256), by_place in zip(loras, weights, strict=True)
            ),
            vae=vae,
            dtype=self.dtype,
        )


def _step_name(number: int, operation: Operation) -> str:
    return f"step {number} ({operation.method})"


def _written_values(what: str, entry: StepEntry, operation: Operation, number: int) -> dict[str, Any]:
    """Return slot -> the numbers as written.

    Raises:
        RecipeError: a slot does not exist, or no ratio is given, so that nothing would be merged.
    """
    previous = f"{RESULT}{number - 1}"
    given = {previous if name == "result" else name: value for name, value in entry.values.items()}
    ratios = [slot.name for slot in operation.slots if slot.kind == "ratio"]
    if entry.ratio is not None:
        if len(ratios) != 1:
            known = f"its ratios are {', '.join(ratios)}: give them under `values`" if ratios else "it has no ratio"
            raise RecipeError(f"{what}: `ratio` is for methods with a single one; {known}")
        if ratios[0] in given:
            raise RecipeError(f"{what}: give either `ratio` or `{ratios[0]}` under `values`, not both")
        given[ratios[0]] = entry.ratio
    slots = [slot.name for slot in operation.slots]
    for name in given:
        if name not in slots:
            raise RecipeError(
                f"{what}: `values` has no {name!r}: {unknown_name(name, slots) if slots else 'the method takes none'}"
            )
    if ratios and not set(ratios) & set(given):
        raise RecipeError(f"{what} has no ratio, so nothing would be merged: give {', '.join(ratios)} under `values`")
    return given


def _step(number: int, entry: StepEntry, operation: Operation, architecture: Architecture) -> Step:
    what = _step_name(number, operation)
    given = _written_values(what, entry, operation, number)
    by_slot = [expand(given.get(slot.name, {}), slot, architecture, f"{what}, {slot.name}") for slot in operation.slots]
    values = {place: tuple(numbers[place] for numbers in by_slot) for place in places(architecture)}
    return Step(operation=operation, values=canonical_values(values))


def load_recipe_file(path: Path) -> RecipeFile:
    """Read and check a recipe file: JSON if its name ends in .json, else YAML.

    Raises:
        RecipeError: the file is missing or is not valid JSON or YAML, a key is unknown, or a value has a wrong type.
    """
    text = read_text(path, "recipe", "a recipe's YAML or JSON file", RecipeError)
    return parse_recipe_file(
        text, base_dir=path.resolve().parent, origin=path.name, as_json=path.suffix.lower() == ".json"
    )


def parse_recipe_file(text: str, *, base_dir: Path, origin: str = "recipe", as_json: bool = False) -> RecipeFile:
    """Parse the text of a recipe file.

    Args:
        base_dir: the folder of relative paths.
        origin: the file's name, for messages.

    Raises:
        RecipeError: as `load_recipe_file`.
    """
    data = (parse_json if as_json else parse_yaml)(text, origin, RecipeError)
    if not isinstance(data, dict):
        raise RecipeError(f"{origin} contains no recipe: expected `parents:` with `method:` or `steps:`")
    try:
        return RecipeFile.model_validate(data, context={"base_dir": base_dir})
    except ValidationError as error:
        raise RecipeError(f"{origin}: {unquoted_text(error, text) or explain(error, RecipeFile)}") from error


# -------------------------------------------------------------------------------------- writing one


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipePaths:
    """Where a recipe's files are."""

    parents: Mapping[str, Path]  # by letter
    loras: Sequence[Path] = ()  # in the recipe's order
    vae: Path | None = None


def recipe_text(recipe: Recipe, paths: RecipePaths, comment: str = "") -> str:
    """Write a recipe as the YAML of a recipe file, which `load_recipe_file` reads back to the same recipe.

    Args:
        paths: of the recipe's files; with absolute paths, the recipe file can be read from any folder.
        comment: one line for the top of the file.
    """
    architecture = Architecture(recipe.architecture)
    data: dict[str, Any] = {
        "parents": {
            parent.letter: {"path": str(paths.parents[parent.letter]), "sha256": parent.sha256}
            for parent in recipe.parents
        },
        "steps": [_step_text(step, architecture) for step in recipe.steps],
    }
    if recipe.loras:
        data["loras"] = [
            {
                "path": str(path),
                "sha256": lora.sha256,
                "weight": shorten(lora.by_place, LORA_WEIGHT, architecture),
            }
            for lora, path in zip(recipe.loras, paths.loras, strict=True)
        ]
    if recipe.vae is not None:
        data["vae"] = {"path": str(paths.vae), "sha256": recipe.vae.sha256}
    if recipe.dtype is not None:
        data["dtype"] = recipe.dtype
    if draws := next((step.operation.draws for step in recipe.steps if step.operation.info.random), None):
        data["draws"] = draws
    head = f"# {visible(' '.join(comment.split()))}\n" if comment else ""
    text = _as_yaml(data, allow_unicode=True)
    return head + (text if visible(text) == text else _as_yaml(data, allow_unicode=False))  # it may go to a terminal


def _as_yaml(data: Mapping[str, Any], *, allow_unicode: bool) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=allow_unicode, width=120, default_flow_style=None)


def _step_text(step: Step, architecture: Architecture) -> dict[str, Any]:
    operation, by_place = step.operation, step.by_place
    data: dict[str, Any] = {"method": operation.method, "inputs": list(operation.inputs)}
    if operation.slots:
        data["values"] = {
            slot.name: shorten({place: numbers[index] for place, numbers in by_place.items()}, slot, architecture)
            for index, slot in enumerate(operation.slots)
        }
    if operation.clip:
        data["clip"] = True
    if operation.seed:
        data["seed"] = operation.seed
    return data
