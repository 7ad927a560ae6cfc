"""StudySpec: the YAML that a user writes, parsed once into frozen values; unknown keys are refused.

Relative paths in a spec are relative to the spec file. The database stores the parsed spec with absolute paths, so
that a study resumes from the database alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from basics.messages import unknown_name
from basics.names import JOINERS, in_words, is_word, plain, unseen
from basics.settings import FrozenSettings, explain
from scorers.config import SpecPath
from scorers.protocol import ScorerInfo, is_parent_letter
from scorers.votes.kinds import VOTED
from search_spaces.blocks import Architecture
from search_spaces.settings import SlotSettings, SpaceSettings
from search_spaces.space import SearchSpace
from studies.errors import RecipeError, SpecError
from studies.recipe.blueprint import slots_of
from studies.recipe.recipe import DRAWS, LETTERS, DrawsName, Operation, check_operations
from studies.recipe.steps import StepSettings, operations_of
from studies.spec.constraints import ConstraintSettings, check_constraints
from studies.spec.final import FinalSettings
from studies.spec.former import as_now
from studies.spec.lora_scorers import require_their_loras, without_scorers_of_loras
from studies.spec.preference import check_preference
from studies.spec.prompt_groups import require_known_groups, without_other_groups
from studies.spec.rendering import ExportSettings, RenderSettings
from studies.spec.resolving import resolved_spec
from studies.spec.scoring import ObjectiveTerm, ScorerEntry, with_kind
from studies.spec.search import PREDICTING, BudgetSettings, ProbeSettings, RacingSettings, SamplerSettings
from studies.spec.suite import SuiteSettings
from studies.spec.warm_start import WarmStartSettings
from studies.spec.words import STUDY_WORDS
from studies.system.documents import parse_yaml, read_text
from studies.system.texts import quotes_for_prompt, unquoted_text

MAX_NAME = 100  # characters of a scorer's name: more would not fit into the database or a table on the screen


def _is_read_from_file(info: ValidationInfo) -> bool:
    """Return whether a spec file is read: names that were stored once stay as they are."""
    return "base_dir" in (info.context or {})


def _may_be_in_file_name(character: str) -> bool:
    return is_word(character) or character in " .+-" or character in JOINERS


class LoraSettings(FrozenSettings):
    """A LoRA that is baked into every trial."""

    path: SpecPath
    weight: SlotSettings = SlotSettings(bounds=(0.0, 1.0))


LONGEST_NAME = 60  # characters


def usable_name(written: str) -> str:
    """Return a study's name in the form in which it is stored.

    Raises:
        ValueError: no study can be called so.
    """
    name = plain(written)
    wrong = unseen(name) or next((in_words(each) for each in name if not _may_be_in_file_name(each)), None)
    if wrong is not None or not (name[:1].isalnum() or name.startswith("_")):
        which = f": {wrong} is none of them" if wrong else ""
        msg = f"use letters, digits, spaces and . + - _ only, beginning with a letter or digit{which}"
        raise ValueError(msg)
    if len(name) > LONGEST_NAME:
        msg = f"use at most {LONGEST_NAME} characters, got {len(name)}"
        raise ValueError(msg)
    return name


class StudySpec(FrozenSettings):
    """A study as the user asked for it."""

    OTHER_WORDS: ClassVar[Mapping[str, str]] = STUDY_WORDS
    study: str = Field(min_length=1, max_length=LONGEST_NAME)
    parents: tuple[SpecPath, ...]
    method: str | None = None  # merges all parents in one step; by default weighted_sum
    steps: tuple[StepSettings, ...] | None = None
    draws: DrawsName = DRAWS  # the generator of random methods' numbers
    loras: Mapping[str, LoraSettings] = Field(default_factory=dict)
    vae: SpecPath | None = None  # replaces the merge's own
    space: SpaceSettings = SpaceSettings()
    suite: SuiteSettings
    scorers: Mapping[str, ScorerEntry]
    objective: Mapping[str, ObjectiveTerm] | None = None
    objectives: tuple[str, ...] | None = None
    constraints: Mapping[str, ConstraintSettings] = Field(default_factory=dict)  # scorer -> what its mean keeps to
    probes: ProbeSettings = ProbeSettings()
    warm_start: WarmStartSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    budget: BudgetSettings = BudgetSettings()
    racing: RacingSettings | None = None  # None: every trial renders the full suite
    render: RenderSettings = RenderSettings()
    export: ExportSettings = ExportSettings()
    final: FinalSettings = FinalSettings()

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, data: Any, info: ValidationInfo) -> Any:
        context = info.context or {}
        if "base_dir" not in context:  # it is a stored one
            return data
        resolved = resolved_spec(data, Path(context["base_dir"]))
        context.get("notes", []).extend(resolved.notes)
        return resolved.data

    @field_validator("study")
    @classmethod
    def _usable_name(cls, value: str, info: ValidationInfo) -> str:
        return usable_name(value) if _is_read_from_file(info) else value

    @field_validator("objectives")
    @classmethod
    def _plain_objectives(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        return tuple(map(plain, value)) if value is not None and _is_read_from_file(info) else value

    @model_validator(mode="after")
    def _names_can_be_seen(self, info: ValidationInfo) -> Self:
        if _is_read_from_file(info):
            named = {"scorer": self.scorers, "LoRA": self.loras, "group": self.space.groups}
            for kind, names in (named | {"parameter": self.space.parameters}).items():
                for name in names:
                    if wrong := unseen(name):
                        msg = (
                            f"a {kind} cannot be called {name!r}: it holds {wrong}, which cannot be seen: leave it out"
                        )
                        raise ValueError(msg)
        return self

    @field_validator("scorers", mode="before")
    @classmethod
    def _plain_scorers(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: with_kind(name, options) for name, options in value.items()}
        return value

    @field_validator("objective", mode="before")
    @classmethod
    def _plain_terms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: {} if term is None else term for name, term in value.items()}
        return value

    @field_validator("racing", mode="before")
    @classmethod
    def _plain_racing(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return RacingSettings() if value else None
        return value

    @field_validator("racing")
    @classmethod
    def _fitted_racing(cls, value: RacingSettings | None, info: ValidationInfo) -> RacingSettings | None:
        suite = info.data.get("suite")  # missing if it is wrong
        return value if value is None or suite is None else value.fitted(len(suite.items()))

    @model_validator(mode="after")
    def _racing_fits(self) -> Self:
        if self.racing is None:
            return self
        if self.objectives is not None:
            msg = "`racing` needs a single-number `objective`: with several `objectives` there is no best trial to beat"
            raise ValueError(msg)
        items = len(self.suite.items())
        if items <= self.racing.batch:
            msg = (
                f"`racing` checks a trial after every {self.racing.batch} images, and the suite has only {items}: use "
                "a smaller `batch` or a larger suite, or leave racing off"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self._check_method()
        if not self.scorers:
            msg = "no scorers: name at least one (see `mergetune scorers`)"
            raise ValueError(msg)
        for name in self.scorers:
            if not 1 <= len(name) <= MAX_NAME or name == "objective":
                msg = f"a scorer cannot be called {name!r}: use a name of 1 to {MAX_NAME} characters, not `objective`"
                raise ValueError(msg)
        if self.objective is not None and self.objectives is not None:
            msg = "give either `objective` (one number) or `objectives` (several), not both"
            raise ValueError(msg)
        if self.objectives is not None and (
            len(self.objectives) < 2 or len(set(self.objectives)) < len(self.objectives)
        ):
            msg = "`objectives` needs two or more different scorers; for a single number use `objective`"
            raise ValueError(msg)
        for name in (*(self.objective or ()), *(self.objectives or ())):
            if name not in self.scorers:
                msg = f"the objective names {name!r}, which is not under `scorers`: {', '.join(self.scorers)}"
                raise ValueError(msg)
        if self.objective is not None and not self.objective:
            msg = "`objective` is empty: name at least one scorer, or leave the key out to use them all"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _references_fit(self) -> Self:
        for name, models in self.references.items():
            for to in models:
                if is_parent_letter(to) and to not in self.letters:
                    known = ", ".join(self.letters)
                    msg = f"scorers: {name}: there is no parent {to} to compare with: this study has {known}"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _constraints_fit(self, info: ValidationInfo) -> Self:
        if _is_read_from_file(info):  # of a plug-in whose range has changed since, a stored study keeps its own
            check_constraints(self.constraints, self.infos)
        return self

    @field_validator("final")
    @classmethod
    def _final_in_the_program(cls, value: FinalSettings, info: ValidationInfo) -> FinalSettings:
        """Write out what its prompts' samplers mean in the suite's program, as the suite's own prompts have it."""
        suite: SuiteSettings | None = info.data.get("suite")  # none if it is refused
        if suite is None or value.prompts is None:
            return value
        return value.model_copy(update={"prompts": tuple(each.in_program(suite.program) for each in value.prompts)})

    @model_validator(mode="after")
    def _preference_fits(self) -> Self:
        if self.voted is not None:
            check_preference(self)
        return self

    @model_validator(mode="after")
    def _scorers_of_groups(self) -> Self:
        """Write into the prompts which scorers do not look at their groups."""
        of_final = self.final.prompts
        prompts = (*self.suite.prompts, *(of_final or ()))
        require_known_groups(self.scorers, (prompt.group for prompt in prompts if prompt.group is not None))
        if not any(entry.groups for entry in self.scorers.values()):
            return self
        changes: dict[str, Any] = {
            "suite": self.suite.model_copy(update={"prompts": without_other_groups(self.suite.prompts, self.scorers)})
        }
        if of_final is not None:
            prompts_of_final = without_other_groups(of_final, self.scorers)
            changes["final"] = self.final.model_copy(update={"prompts": prompts_of_final})
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _scorers_of_loras(self) -> Self:
        """Write into the prompts which scorers do not look at them for want of a LoRA."""
        require_their_loras(self.scorers, self.suite)
        of_suite, of_final = self.suite.prompts, self.final.prompts
        prompts = without_scorers_of_loras(of_suite, self.suite, self.scorers)
        changes: dict[str, Any] = {"suite": self.suite.model_copy(update={"prompts": prompts})}
        if of_final is not None:
            prompts_of_final = without_scorers_of_loras(of_final, self.suite, self.scorers)
            changes["final"] = self.final.model_copy(update={"prompts": prompts_of_final})
        return self if prompts == of_suite and of_final is None else self.model_copy(update=changes)

    @model_validator(mode="after")
    def _final_fits(self) -> Self:
        held_out = self.final.held_out(self.suite)
        self._check_looked_at(self.suite, "suite")
        if self.final.top and self.final.prompts is not None:
            self._check_looked_at(held_out, "final")
        return self

    def _check_looked_at(self, suite: SuiteSettings, where: str) -> None:
        """Refuse prompts that are left out of scorers that there are not, or of all, and scorers without any prompt."""
        for number, prompt in enumerate(suite.prompts):
            named = f"{where}: prompts.{number}.without"
            for name in prompt.without:
                if name not in self.scorers:
                    msg = f"{named}: there is no scorer {name[:MAX_NAME]!r}: {unknown_name(name, self.scorers)}"
                    raise ValueError(msg)
            if set(prompt.without) >= set(self.scorers):
                msg = (
                    f"{named} names every scorer, so its images would be rendered for nothing: remove the prompt"
                    if not any(entry.is_selective for entry in self.scorers.values())
                    else f"{where}: prompts.{number}: no scorer looks at it, by its `group`, its LoRAs and its "
                    "`without`, so its images would be rendered for nothing: remove the prompt, or add a scorer that "
                    "looks at it"
                )
                raise ValueError(msg)
        for name, entry in self.scorers.items():
            if not suite.looked_at_by(name):
                msg = f"{where}: scorer {name!r} {entry.why_no_prompt}: let it look at some, or remove it"
                raise ValueError(msg)

    @model_validator(mode="after")
    def _patience_fits(self) -> Self:
        if self.budget.patience is None:
            return self
        if self.sampler.name not in PREDICTING:
            msg = (
                f"budget: patience needs a sampler that predicts improvement ({', '.join(PREDICTING)}), and the "
                f"spec names {self.sampler.name}: end the study by trials, images or minutes instead"
            )
            raise ValueError(msg)
        if self.objectives is not None:
            msg = (
                "budget: patience needs a single objective, because the improvement of several cannot be compared "
                "with noise: end the study by trials, images or minutes, or combine the scorers under `objective`"
            )
            raise ValueError(msg)
        return self

    def with_budget(self, budget: BudgetSettings) -> Self:
        """Return the same study with another budget.

        Raises:
            SpecError: the budget does not fit the study.
        """
        try:
            return type(self).model_validate(self.model_dump(mode="json") | {"budget": budget.model_dump()})
        except ValidationError as error:
            raise SpecError(explain(error, StudySpec)) from error

    def with_stages_of(self, suite_digest: str) -> Self:
        """Return the same study with its suite divided into stages as one with this digest, if it races."""
        if self.racing is None or suite_digest in (self.racing.order, self.suite.digest):
            return self
        return self.model_copy(update={"racing": self.racing.model_copy(update={"order": suite_digest})})

    def _check_method(self) -> None:
        if self.steps is not None and self.method is not None:
            msg = "give either `method` (one step) or `steps`, not both"
            raise ValueError(msg)
        if not 2 <= len(self.parents) <= len(LETTERS):
            msg = f"a study takes 2 to {len(LETTERS)} parents, the spec names {len(self.parents)}"
            raise ValueError(msg)
        try:
            check_operations(self.operations, self.letters)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        used = {name for operation in self.operations for name in operation.inputs}
        if idle := [letter for letter in self.letters if letter not in used]:
            msg = f"parent {', '.join(idle)} is not used by any step: name it among a step's inputs, or remove it"
            raise ValueError(msg)
        if len(set(self.parents)) < len(self.parents):
            msg = "a parent is named twice: merging a checkpoint with itself changes nothing"
            raise ValueError(msg)

    @property
    def held_out(self) -> SuiteSettings:
        """The suite of the final."""
        return self.final.held_out(self.suite)

    @property
    def letters(self) -> tuple[str, ...]:
        """The parents' names: A, B, C ..."""
        return tuple(LETTERS[: len(self.parents)])

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The chain of merges."""
        steps = self.steps if self.steps is not None else (StepSettings(method=self.method or "weighted_sum"),)
        return operations_of(steps, self.letters, self.draws)

    @property
    def full_space(self) -> SpaceSettings:
        """The search space, including the LoRAs' weights."""
        weights = {name: lora.weight for name, lora in self.loras.items()}
        if not weights:
            return self.space
        return self.space.model_copy(update={"parameters": weights | dict(self.space.parameters)})

    def search_space(self, architecture: Architecture) -> SearchSpace:
        """Build the search space for parents of an architecture.

        Raises:
            SpaceError: the settings contradict each other, or do not fit the architecture.
        """
        return SearchSpace.build(
            self.full_space, architecture, slots_of(self.operations, self.letters, tuple(self.loras))
        )

    @property
    def infos(self) -> dict[str, ScorerInfo]:
        """What each scorer measures, with default units; those that depend on reference images are not known yet."""
        return {name: entry.info for name, entry in self.scorers.items()}

    @property
    def references(self) -> dict[str, tuple[str, ...]]:
        """Scorer -> the models whose renders of the same items it compares with; only those that have some."""
        found = {name: entry.references for name, entry in self.scorers.items()}
        return {name: models for name, models in found.items() if models}

    @property
    def voted(self) -> str | None:
        """The name of the scorer that people's votes make; None where there is none."""
        return next((name for name, entry in self.scorers.items() if entry.kind == VOTED), None)

    @property
    def by_votes_alone(self) -> bool:
        """Whether people's votes are all that the objective is made of."""
        return self.voted is not None and self.objectives is None and tuple(self.terms) == (self.voted,)

    @property
    def terms(self) -> Mapping[str, ObjectiveTerm]:
        """The terms of the single-number objective: by default every scorer with weight 1."""
        return self.objective or {name: ObjectiveTerm() for name in self.scorers}

    @property
    def as_asked(self) -> Self:
        """The spec without what was read when the study began: recipe files, the warm start's trials and place.

        Nor has it the order of stages that a study of an earlier version keeps.
        """
        recipes = tuple(probe.model_copy(update={"recipe": None}) for probe in self.probes.recipes)
        changes: dict[str, Any] = {"probes": self.probes.model_copy(update={"recipes": recipes})}
        if self.racing is not None:
            changes["racing"] = self.racing.model_copy(update={"order": None})
        if self.warm_start is not None:
            changes["warm_start"] = self.warm_start.model_copy(update={"again": (), "storage": None, "artifacts": None})
        return self.model_copy(update=changes)

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        """Parse a stored spec, whose paths are absolute.

        Raises:
            SpecError: it does not fit this installation, because a scorer plug-in is missing, for example.
        """
        try:
            return cls.model_validate_json(as_now(text))
        except ValidationError as error:
            raise SpecError(f"the stored spec does not fit this installation: {explain(error, cls)}") from error


@dataclass(frozen=True, kw_only=True)
class ReadSpec:
    """A spec that was read from a file."""

    spec: StudySpec
    notes: tuple[str, ...]  # what the user should know of it, one line each


def load_spec(path: Path) -> StudySpec:
    """Read and check a spec file.

    Raises:
        SpecError: the file is missing or is not YAML, a key is unknown, or a value is out of range.
    """
    return load_spec_and_notes(path).spec


def load_spec_and_notes(path: Path) -> ReadSpec:
    """Read and check a spec file, with what the user should know of it.

    Raises:
        SpecError: as `load_spec`.
    """
    text = read_text(path, "spec", "a study's YAML file", SpecError)
    return _read(text, base_dir=path.resolve().parent, origin=path.name)


def parse_spec(text: str, *, base_dir: Path, origin: str = "spec") -> StudySpec:
    """Parse YAML text.

    Args:
        base_dir: the folder of relative paths.
        origin: the text's name, for messages.

    Raises:
        SpecError: as `load_spec`.
    """
    return _read(text, base_dir=base_dir, origin=origin).spec


def _read(text: str, *, base_dir: Path, origin: str) -> ReadSpec:
    data = parse_yaml(text, origin, SpecError)
    if not isinstance(data, dict):
        colons = "; put a space after each colon" if isinstance(data, str) and ":" in data else ""
        raise SpecError(f"{origin} contains no settings: expected `study:`, `parents:`, `suite:`, `scorers:`{colons}")
    return checked_spec(data, text, base_dir=base_dir, origin=origin)


def checked_spec(data: Mapping[str, Any], text: str, *, base_dir: Path, origin: str) -> ReadSpec:
    """Check the settings of a spec file.

    Args:
        data: the settings, as YAML has them.
        text: that they were read from, for messages.
        base_dir: the folder of relative paths.
        origin: the text's name, for messages.

    Raises:
        SpecError: a key is unknown, or a value is out of range.
    """
    notes: list[str] = []  # to which the validators add
    try:
        spec = StudySpec.model_validate(data, context={"base_dir": base_dir, "notes": notes})
    except ValidationError as error:
        reason = unquoted_text(error, text) or f"{explain(error, StudySpec)}{quotes_for_prompt(error, text)}"
        raise SpecError(f"{origin}: {reason}") from error
    return ReadSpec(spec=spec, notes=tuple(notes))
