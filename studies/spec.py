"""StudySpec: the YAML a user writes, parsed once into frozen values; unknown keys are refused.

Relative paths in a spec are relative to the spec file. What is stored with the study is the parsed spec
with absolute paths, so that a study resumes from its database alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from scorers.config import SpecPath, absolute_path
from scorers.errors import ScorerError
from scorers.protocol import ScorerInfo
from scorers.registry import get_kind, parse_settings
from search_spaces.block_presets import block_preset
from search_spaces.settings import SlotSettings, SpaceSettings
from studies.documents import parse_yaml, read_text
from studies.errors import RecipeError, SpecError
from studies.explain import explain
from studies.recipe import LETTERS, RESULT, DtypeName, Operation, check_operations

SchedulerName = Literal[
    "ddim", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras", "euler", "euler_a", "heun", "lcm", "unipc"
]
PredictionName = Literal["auto", "epsilon", "v_prediction"]
SamplerName = Literal["depth", "gp", "tpe", "cmaes", "nsgaii", "qmc", "random"]
Size = Annotated[tuple[int, int], BeforeValidator(lambda value: (value, value) if isinstance(value, int) else value)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what a torch generator takes
SEED_SHIFT = 1_000_003  # of the final's seeds: a prime far beyond what people count up to
EXPECTING: tuple[SamplerName, ...] = ("depth",)  # samplers that say how much they expect of a trial
MAX_NAME = 100  # characters of a scorer's name: what the database, and a table on the screen, hold
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteItem:
    """One render of the suite."""

    index: int
    prompt: str
    negative: str
    seed: int
    width: int  # pixels, a multiple of 64
    height: int


class SuitePrompt(_Settings):
    """A prompt with what differs from the suite's own settings."""

    prompt: str = Field(min_length=1)
    negative: str | None = None
    seeds: tuple[Seed, ...] | None = None
    sizes: tuple[Size, ...] | None = None


class SuiteSettings(_Settings):
    """prompts x seeds x sizes, and how each is rendered; fixed for the whole study."""

    prompts: tuple[SuitePrompt, ...]
    negative: str = ""
    seeds: tuple[Seed, ...] = (0,)
    sizes: tuple[Size, ...] = ((512, 512),)
    steps: int = Field(default=20, ge=1, le=1000)
    cfg: float = Field(default=7.0, ge=0, le=100)  # guidance scale; 1 or less renders without guidance
    scheduler: SchedulerName = "dpmpp_2m"
    clip_skip: int = Field(default=1, ge=1, le=11)  # 1 is the last layer, as A1111 counts; SDXL: at least 2
    prediction: PredictionName = "auto"  # what the U-Net predicts; auto: what the parents' markers say
    zero_snr: Literal["auto"] | bool = "auto"  # whether the noise schedule ends in pure noise; auto: as marked

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        return _with_prompt(value)

    @field_validator("zero_snr", mode="before")
    @classmethod
    def _auto_or_bool(cls, value: Any) -> Any:
        if not isinstance(value, bool) and value != "auto":  # not what else pydantic takes for a bool
            msg = "expected auto, true or false"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _zero_snr_predicts_v(self) -> Self:
        if self.prediction == "epsilon" and self.zero_snr is True:
            msg = "zero_snr: true needs prediction: v_prediction: at pure noise, the noise tells nothing of the image"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _something_to_render(self) -> Self:
        items = self.items()
        if not items:
            msg = "the suite is empty: give at least one prompt, one seed and one size"
            raise ValueError(msg)
        for item in items:
            if item.width % 64 or item.height % 64 or not 64 <= item.width <= 4096 or not 64 <= item.height <= 4096:
                msg = f"size {item.width}x{item.height} cannot be rendered: use multiples of 64 from 64 to 4096"
                raise ValueError(msg)
        renders = {(item.prompt, item.negative, item.seed, item.width, item.height) for item in items}
        if len(renders) < len(items):
            msg = "the suite holds the same render twice (prompt, seed and size): remove the repeated one"
            raise ValueError(msg)
        return self

    def items(self) -> tuple[SuiteItem, ...]:
        """Every render, in the order prompt, seed, size."""
        rows = [
            (row.prompt, self.negative if row.negative is None else row.negative, seed, size)
            for row in self.prompts
            for seed in (self.seeds if row.seeds is None else row.seeds)
            for size in (self.sizes if row.sizes is None else row.sizes)
        ]
        return tuple(
            SuiteItem(index=index, prompt=prompt, negative=negative, seed=seed, width=size[0], height=size[1])
            for index, (prompt, negative, seed, size) in enumerate(rows)
        )

    @property
    def digest(self) -> str:
        """sha256 over everything that shapes the renders, 64 hex digits.

        What is left to the models' markers is no part of it: the parents' own hashes hold those.
        """
        marked = {name for name in ("prediction", "zero_snr") if getattr(self, name) == "auto"}
        said = self.model_dump(mode="json", exclude=marked)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class FinalSettings(_Settings):
    """How the best trials are compared once more, on renders that the search never saw."""

    top: int = Field(default=5, ge=0, le=100)  # finished trials that take part; 0: no final
    prompts: tuple[SuitePrompt, ...] | None = Field(default=None, min_length=1)  # None: the suite's
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)  # None: derived from the suite's

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        return _with_prompt(value)

    def held_out(self, suite: SuiteSettings) -> SuiteSettings:
        """The final's suite: other prompts if given, other seeds always, everything else as in `suite`.

        Raises:
            ValueError: it would be empty, hold a render twice, or a seed that the search has seen.
        """
        seen = {item.seed for item in suite.items()}
        shift = _unseen_shift(seen | set(suite.seeds))

        def others(seeds: tuple[int, ...]) -> tuple[int, ...]:
            return self.seeds or tuple((seed + shift) % 2**63 for seed in seeds)

        prompts = self.prompts or tuple(
            row.model_copy(update={"seeds": None if row.seeds is None else others(row.seeds)}) for row in suite.prompts
        )
        try:
            changed = {"prompts": prompts, "seeds": others(suite.seeds)}
            found = SuiteSettings.model_validate(suite.model_dump() | changed)
        except ValidationError as error:
            msg = f"final: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            raise ValueError(msg) from error
        if repeated := sorted({item.seed for item in found.items()} & seen):
            msg = (
                f"final: seed {', '.join(map(str, repeated))} is one of the suite's: the final needs seeds that the "
                "search has not seen, so choose others or leave `seeds` out"
            )
            raise ValueError(msg)
        return found


def _with_prompt(value: Any) -> Any:
    """Prompts written as plain texts."""
    if isinstance(value, (list, tuple)):
        return [{"prompt": row} if isinstance(row, str) else row for row in value]
    return value


def _unseen_shift(seeds: set[int]) -> int:
    """The same shift for every seed, so that all stay different, and none becomes one of them."""
    shift = SEED_SHIFT
    while any((seed + shift) % 2**63 in seeds for seed in seeds):
        shift += SEED_SHIFT
    return shift


class ScorerEntry(_Settings):
    """One scorer of a study. Written flat: `name: {kind: KIND, option: ...}`; the kind is the name if left out."""

    kind: str
    options: Mapping[str, Any]  # checked by the scorer's own settings class; paths absolute

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        options = {key: option for key, option in value.items() if key != "kind"}
        base_dir = (info.context or {}).get("base_dir", Path("/"))
        try:
            settings = parse_settings(str(value["kind"]), options, base_dir)
        except ScorerError as error:
            raise ValueError(str(error)) from error
        return {"kind": value["kind"], "options": settings.model_dump(mode="json", exclude_unset=True)}

    @property
    def info(self) -> ScorerInfo:
        """What the scorer measures; a distance on a network of one's own carries the network's name."""
        info = get_kind(self.kind).info
        network = self.options.get("network")
        return replace(info, label=f"{info.label}({network})") if network else info

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


class ObjectiveTerm(_Settings):
    """One scorer's part in a single-number objective: weight * score / unit, subtracted for scores to minimise."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    unit: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # None takes the scorer's own unit


class SamplerSettings(_Settings):
    """Who proposes the trials after the probes."""

    name: SamplerName = "depth"
    seed: int = Field(default=0, ge=0, lt=2**31)
    options: Mapping[str, Any] = Field(default_factory=dict)  # handed to the sampler's constructor


class RecipeProbe(_Settings):
    """A recipe file whose merge is tried. Written short as its path."""

    path: SpecPath
    recipe: str | None = None  # as it was when the study began, over the study's parents; the file is not read again

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, (str, Path)) else value


class ProbeSettings(_Settings):
    """Trials chosen by us before the sampler takes over; parents always come first."""

    uniform: tuple[Finite, ...] = (0.25, 0.5, 0.75)
    recipes: tuple[RecipeProbe, ...] = ()
    presets: tuple[str, ...] = ()  # block weights by name
    profiles: int = Field(default=6, ge=0, le=64)  # smooth depth profiles

    @field_validator("presets")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            block_preset(name)
        return value


class NamedRecipe(_Settings):
    """A merge that was found elsewhere."""

    name: str
    recipe: str  # Recipe's JSON


def _checked_storage(text: str, info: ValidationInfo) -> str:
    """A database's URL; a file, also that of a SQLite URL, is relative to the spec."""
    scheme, _, rest = text.rpartition("://")
    if scheme not in {"", "sqlite"}:
        return text
    path = Path(rest.removeprefix("/") if scheme else text)
    return f"sqlite:///{absolute_path(path, info)}"


def _checked_place(text: str, info: ValidationInfo) -> str:
    """`s3://bucket/prefix`, or a folder relative to the spec."""
    return text if text.startswith("s3://") else str(absolute_path(Path(text), info))


class WarmStartSettings(_Settings):
    """Another study over the same parents, whose finished trials this one begins with. Written short as its name."""

    study: str = Field(min_length=1)
    storage: Annotated[str, AfterValidator(_checked_storage)] | None = None  # None: the database of this study
    artifacts: Annotated[str, AfterValidator(_checked_place)] | None = None  # None: what belongs to `storage`
    top: int | None = Field(default=None, ge=1)  # None: all that keep their scores, the best 10 of those that do not
    again: tuple[NamedRecipe, ...] = ()  # found when the study began: merges whose scores do not hold here

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"study": value} if isinstance(value, str) else value


class BudgetSettings(_Settings):
    """A study ends when the first of these is spent; a trial that has begun is finished."""

    trials: int = Field(default=100, ge=1, le=1_000_000)  # probes included
    images: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of work, summed over all workers
    patience: int | None = Field(default=None, ge=1)  # proposed trials that together promise less than the noise


class RenderSettings(_Settings):
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps ...
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # auto: fp32 on a CPU, else fp16 or what is saved
    batch_size: int | None = Field(default=None, ge=1)
    keep: Literal["best", "all", "none"] = "best"  # whose renders stay as files; contact sheets always do
    degenerate_limit: int = Field(default=0, ge=0)  # broken images a trial may have before it fails


class RacingSettings(_Settings):
    """Trials that surely fall behind the best so far are not rendered to their end."""

    batch: int = Field(default=16, ge=4)  # images between two looks: fewer say nothing about their own spread
    confidence: float = Field(default=0.99, ge=0.5, lt=1)  # that a trial as good as the best is rendered to its end


class ExportSettings(_Settings):
    dtype: DtypeName | None = None  # None keeps parent A's, tensor by tensor


class StepSettings(_Settings):
    """One step of a chain of merges."""

    method: str = "weighted_sum"
    inputs: tuple[str, ...] | None = None  # parents by letter, or result-N of step N; None: all parents
    clip: bool = False  # no element may leave the range between the first two inputs
    seed: int = Field(default=0, ge=0, lt=2**31)  # of methods that drop elements at random


def operations_of(steps: Sequence[StepSettings], letters: Sequence[str]) -> tuple[Operation, ...]:
    """The steps with their inputs written out: all parents where none are named, `result` as the step before."""
    return tuple(
        Operation(
            method=step.method,
            inputs=tuple(
                f"{RESULT}{index}" if name == "result" else name
                for name in (letters if step.inputs is None else step.inputs)
            ),
            clip=step.clip,
            seed=step.seed,
        )
        for index, step in enumerate(steps)
    )


class LoraSettings(_Settings):
    """A LoRA that is baked into every trial."""

    path: SpecPath
    weight: SlotSettings = SlotSettings(bounds=(0.0, 1.0))


class StudySpec(_Settings):
    """A study as its user asked for it."""

    study: str = Field(min_length=1, max_length=60)
    parents: tuple[SpecPath, ...]
    method: str | None = None  # of all parents, weighted_sum if left out; several steps, or options: `steps`
    steps: tuple[StepSettings, ...] | None = None
    loras: Mapping[str, LoraSettings] = Field(default_factory=dict)
    vae: SpecPath | None = None  # replaces the merge's own
    space: SpaceSettings = SpaceSettings()
    suite: SuiteSettings
    scorers: Mapping[str, ScorerEntry]
    objective: Mapping[str, ObjectiveTerm] | None = None
    objectives: tuple[str, ...] | None = None
    probes: ProbeSettings = ProbeSettings()
    warm_start: WarmStartSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    budget: BudgetSettings = BudgetSettings()
    racing: RacingSettings | None = None  # None: every trial is rendered to its end
    render: RenderSettings = RenderSettings()
    export: ExportSettings = ExportSettings()
    final: FinalSettings = FinalSettings()

    @field_validator("study")
    @classmethod
    def _usable_name(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w .+-]*", value):
            msg = "use letters, digits, spaces and . + - _ only, beginning with a letter or digit"
            raise ValueError(msg)
        return value

    @field_validator("scorers", mode="before")
    @classmethod
    def _plain_scorers(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: _with_kind(name, options) for name, options in value.items()}
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

    @model_validator(mode="after")
    def _racing_fits(self) -> Self:
        if self.racing is None:
            return self
        if self.objectives is not None:
            msg = "`racing` needs a single-number `objective`: with several `objectives` no trial is the one to beat"
            raise ValueError(msg)
        items = len(self.suite.items())
        if items <= self.racing.batch:
            msg = (
                f"`racing` looks at a trial after every {self.racing.batch} images, and the suite has {items}: use a "
                "smaller `batch` or a larger suite, or leave racing off"
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
            if not (name.isprintable() and 1 <= len(name) <= MAX_NAME) or name == "objective":
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
    def _final_fits(self) -> Self:
        self.final.held_out(self.suite)
        return self

    @model_validator(mode="after")
    def _patience_fits(self) -> Self:
        if self.budget.patience is None:
            return self
        if self.sampler.name not in EXPECTING:
            msg = (
                f"budget: patience needs a sampler that says what it expects, {' or '.join(EXPECTING)}, and the "
                f"spec names {self.sampler.name}: end the study by trials, images or minutes instead"
            )
            raise ValueError(msg)
        if self.objectives is not None:
            msg = (
                "budget: patience needs one objective, as the improvement of several has no unit to compare with "
                "noise: end the study by trials, images or minutes, or join the scorers under `objective`"
            )
            raise ValueError(msg)
        return self

    def with_budget(self, budget: BudgetSettings) -> Self:
        """The same study with another budget.

        Raises:
            SpecError: the study cannot end that way.
        """
        try:
            return type(self).model_validate(self.model_dump(mode="json") | {"budget": budget.model_dump()})
        except ValidationError as error:
            raise SpecError(explain(error, StudySpec)) from error

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
            msg = f"parent {', '.join(idle)} goes into no step: name it among a step's inputs, or remove it"
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
        return operations_of(steps, self.letters)

    @property
    def full_space(self) -> SpaceSettings:
        """The space with the LoRAs' weights in it."""
        weights = {name: lora.weight for name, lora in self.loras.items()}
        if not weights:
            return self.space
        return self.space.model_copy(update={"parameters": weights | dict(self.space.parameters)})

    @property
    def terms(self) -> Mapping[str, ObjectiveTerm]:
        """The single-number objective: every scorer with weight 1 unless the spec says otherwise."""
        return self.objective or {name: ObjectiveTerm() for name in self.scorers}

    @property
    def as_asked(self) -> Self:
        """The spec without what was read for it when the study began: recipe files, another study and where it lay."""
        recipes = tuple(row.model_copy(update={"recipe": None}) for row in self.probes.recipes)
        found: dict[str, Any] = {"probes": self.probes.model_copy(update={"recipes": recipes})}
        if self.warm_start is not None:
            found["warm_start"] = self.warm_start.model_copy(update={"again": (), "storage": None, "artifacts": None})
        return self.model_copy(update=found)

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        """A stored spec; its paths are absolute already.

        Raises:
            SpecError: it does not fit this installation: a scorer plug-in is gone, say.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SpecError(f"the stored spec does not fit this installation: {explain(error, cls)}") from error


def _with_kind(name: str, options: Any) -> Any:
    """A scorer's options with its kind, which is the name where none is given; wrong types are refused later."""
    if options is None:
        return {"kind": name}
    return {"kind": name, **options} if isinstance(options, Mapping) else options


def load_spec(path: Path) -> StudySpec:
    """Read and check a spec file.

    Raises:
        SpecError: missing, not YAML, unknown or misspelt keys, values out of range.
    """
    text = read_text(path, "spec", "a study's YAML file", SpecError)
    return parse_spec(text, base_dir=path.resolve().parent, origin=path.name)


def parse_spec(text: str, *, base_dir: Path, origin: str = "spec") -> StudySpec:
    """Parse YAML text; `base_dir` is what relative paths are relative to."""
    data = parse_yaml(text, origin, SpecError)
    if not isinstance(data, dict):
        raise SpecError(f"{origin} holds no settings: expected `study:`, `parents:`, `suite:`, `scorers:`")
    try:
        return StudySpec.model_validate(data, context={"base_dir": base_dir})
    except ValidationError as error:
        raise SpecError(f"{origin}: {explain(error, StudySpec)}") from error
