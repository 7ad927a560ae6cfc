"""The suite: prompts x seeds x sizes, and how each item is rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from basics.digests import json_digest
from basics.names import plain, unseen
from basics.settings import FrozenSettings
from scorers.config import SpecPath
from studies.spec.hires import NO_HIRES, Hires, HiresSettings, at_length, why_impossible
from studies.spec.pag import NO_PAG, Pag
from studies.spec.presets import PresetName, read_preset, with_preset
from studies.spec.sampler_names import apart, only_sampler, only_schedule
from studies.spec.samplers import (
    OWN_SCHEDULES,
    PROGRAMS,
    SAMPLERS,
    SCHEDULES,
    ProgramName,
    SamplerName,
    Sampling,
    ScheduleName,
    in_program,
)
from studies.spec.sizes import MOST_PIXELS, SIZE_STEP
from studies.spec.words import PROMPT_WORDS, SUITE_WORDS, as_list, as_named, as_size, letters

Syntax = Literal["a1111", "comfyui", "plain"]
Emphasis = Literal["original", "no_norm", "none", "ignore"]
PredictionName = Literal["auto", "epsilon", "v_prediction", "flow"]
# How far a flow's noise levels are bent towards noise. Published models of Stable Diffusion's families use 1 to 12;
# 3 is what ComfyUI's node ModelSamplingSD3 begins with.
LEAST_SHIFT: Final = 1.0
MOST_SHIFT: Final = 12.0
USUAL_SHIFT: Final = 3.0
SCORING: Final = ("weight", "without", "group")  # settings of a prompt that change no image
LONGEST_GROUP: Final = 60  # characters of a group's name
_LATER: Final = ("cfg_rescale", "pag", "hires")  # which suites and prompts did not always have
_NAMES: Final[Mapping[str, Any]] = {
    "program": ProgramName,
    "syntax": Syntax,
    "emphasis": Emphasis,
    "prediction": PredictionName,
}
Size = Annotated[tuple[int, int], BeforeValidator(as_size)]
Sizes = Annotated[tuple[Size, ...], BeforeValidator(as_list)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]  # what a torch generator takes
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(as_list)]
Sampler = Annotated[SamplerName, BeforeValidator(only_sampler)]
Schedule = Annotated[ScheduleName, BeforeValidator(only_schedule)]
Preset = Annotated[PresetName, BeforeValidator(read_preset)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Cfg = Annotated[float, Field(ge=0, le=100)]  # guidance scale; 1 and 0 render without guidance
CfgRescale = Annotated[float, Field(ge=0, le=1)]  # arXiv:2305.08891, eq. 16; 0: as guidance leaves it
ClipSkip = Annotated[int, Field(ge=1, le=11)]  # 1 is the last layer, as in A1111; SDXL: at least 2


def group_name(written: str) -> str:
    """Return the name of a group of prompts in the form in which it is stored.

    Raises:
        ValueError: it is empty, or holds what cannot be seen.
    """
    name = plain(written).strip()
    if not name:
        msg = "a group of prompts needs a name: write a word, or leave it out"
        raise ValueError(msg)
    if wrong := unseen(name):
        msg = f"a group cannot be called {name!r}: it holds {wrong}, which cannot be seen: leave it out"
        raise ValueError(msg)
    return name


def noise_of(seed: int) -> int:
    """Return what of a seed decides the noise: a torch generator on the CPU keeps the low 32 bits."""
    return seed % 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteItem:
    """One render of the suite."""

    index: int
    prompt: str  # as it is written
    negative: str
    seed: int
    width: int  # of the first pass: pixels, a multiple of SIZE_STEP
    height: int
    sampling: Sampling
    clip_skip: int
    weight: float = 1.0  # in the means over items, relative to the others'
    without: tuple[str, ...] = ()  # scorers that do not look at it
    group: str | None = None  # its prompt's, for which gains are told and which a scorer may be given

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of its image in pixels, after the last pass."""
        hires = self.sampling.hires
        return hires.size(self.width, self.height) if hires.is_on else (self.width, self.height)


class SuitePrompt(FrozenSettings):
    """A prompt, with the settings in which it differs from the suite."""

    OTHER_WORDS: ClassVar[Mapping[str, str]] = PROMPT_WORDS
    prompt: str = Field(min_length=1)
    negative: str | None = None
    seeds: Seeds | None = None
    sizes: Sizes | None = None
    steps: Steps | None = None
    cfg: Cfg | None = None
    cfg_rescale: CfgRescale | None = None
    pag: Pag | None = None
    hires: Hires | None = None
    sampler: Sampler | None = None
    schedule: Schedule | None = None  # None: the suite's, or the usual one where the prompt has a sampler of its own
    clip_skip: ClipSkip | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # of each of its items in the means over items
    without: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()  # scorers that do not look at its images
    group: str | None = Field(default=None, min_length=1, max_length=LONGEST_GROUP)

    @field_validator("without")
    @classmethod
    def _plain_names(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(map(plain, value)) if "base_dir" in (info.context or {}) else value

    @field_validator("group")
    @classmethod
    def _plain_group(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or "base_dir" not in (info.context or {}):
            return value
        return group_name(value)

    @model_validator(mode="before")
    @classmethod
    def _names_apart(cls, data: Any) -> Any:
        return apart(data) if isinstance(data, Mapping) and data.get("sampler") is not None else data

    def in_program(self, program: ProgramName) -> Self:
        """Return the prompt with the sampler and the schedule that its names mean in a program."""
        if self.sampler is None:
            return self
        sampler, schedule = in_program(self.sampler, self.schedule, program)
        return self.model_copy(update={"sampler": sampler, "schedule": schedule})


class SizeConditioning(FrozenSettings):
    """The sizes that SDXL's U-Net is told, in pixels: of the picture before training cut it, and of what was left."""

    original: Size | None = None  # width and height; None: the image's
    crop: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)  # left and top
    target: Size | None = None  # width and height; None: the image's

    def numbers(self, width: int, height: int) -> tuple[int, ...]:
        """Return the six numbers for an image, in the U-Net's order: heights before widths, top before left."""
        (original_width, original_height), (left, top) = self.original or (width, height), self.crop
        target_width, target_height = self.target or (width, height)
        return original_height, original_width, top, left, target_height, target_width


Strength = Annotated[float, Field(allow_inf_nan=False)]


class SuiteLora(FrozenSettings):
    """A LoRA on top of every merge while it is rendered."""

    path: SpecPath
    strength: Strength = 1.0
    text_strength: Strength | None = None  # for the text encoders; None: as for the U-Net


class SuiteSettings(FrozenSettings):
    """Prompts x seeds x sizes, and how each item is rendered; fixed for the whole study."""

    OTHER_WORDS: ClassVar[Mapping[str, str]] = SUITE_WORDS
    # The program in which the same settings give the same picture: its samplers, its first noise, its noise of later
    # steps, and the times that its U-Net is given. It stands first, because the prompts' samplers are read by it.
    program: ProgramName = "a1111"
    preset: Preset | None = None  # what set the settings that a spec left out; they are written out when it is parsed
    prompts: tuple[SuitePrompt, ...]
    negative: str = ""
    seeds: Seeds = (0,)
    sizes: Sizes = ((512, 512),)
    steps: Steps = 20
    cfg: Cfg = 7.0
    cfg_rescale: CfgRescale = 0.0
    pag: Pag = NO_PAG
    hires: Hires = NO_HIRES  # a second pass at a larger size
    sampler: Sampler = "dpmpp_2m"
    schedule: Schedule = "karras"  # a spec may say auto: the usual one of the sampler, which is resolved when parsed
    ensd: int = Field(default=0, gt=-(2**63), lt=2**63)  # "eta noise seed delta", added to seeds of later steps' noise
    sgm_noise_multiplier: bool = False  # A1111's setting: first noise of the variance that training had
    clip_skip: ClipSkip = 1
    syntax: Syntax = "a1111"  # whose rules the prompts are written by; plain: every sign is text, 75 tokens are read
    emphasis: Emphasis | None = None  # what A1111 makes of weights; resolved to original, and None for other syntaxes
    embeddings: SpecPath | None = None  # folder of textual inversions
    loras: tuple[SuiteLora, ...] = ()  # on top of every merge while it is rendered, and no part of it
    lora_folder: SpecPath | None = None  # folder of the LoRAs that prompts name
    size_conditioning: SizeConditioning = SizeConditioning()  # SDXL only
    prediction: PredictionName = "auto"  # what the U-Net predicts; auto: as the parents' markers say
    zero_snr: Literal["auto"] | bool = "auto"  # whether the noise schedule ends in pure noise; auto: as marked
    shift: Literal["auto"] | float = "auto"  # of a flow's noise levels; auto: as marked, else USUAL_SHIFT

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_program(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named, program = apart(with_preset(data), default="dpmpp_2m"), data.get("program", "a1111")
        sampler, schedule = named.get("sampler"), named.get("schedule")
        if sampler not in SAMPLERS or schedule not in (None, *SCHEDULES):
            return named  # which the fields refuse
        # A program that there is not is refused, and for that only: any will do for the schedule.
        sampler, schedule = in_program(sampler, schedule, program if program in PROGRAMS else "a1111")
        return {**named, "sampler": sampler, "schedule": schedule}

    @field_validator("prompts")
    @classmethod
    def _prompts_as_in_the_program(cls, value: tuple[SuitePrompt, ...], info: ValidationInfo) -> Any:
        program = info.data.get("program")  # none if it is refused
        return value if program is None else tuple(prompt.in_program(program) for prompt in value)

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        return expand_prompts(value)

    @field_validator("hires", mode="before")
    @classmethod
    def _no_hires(cls, value: Any) -> Any:
        return NO_HIRES if value is None else value

    @field_validator("loras", mode="before")
    @classmethod
    def _list_of_loras(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            msg = (
                "expected a list of {path: FILE, strength: NUMBER}, on top of the merge while it is rendered; LoRAs "
                "that are baked into the merge stand under `loras` beside `suite`"
            )
            raise ValueError(msg)
        if isinstance(value, str):
            value = [value]
        if isinstance(value, (list, tuple)):
            return [{"path": lora} if isinstance(lora, str) else lora for lora in value]
        return value

    @field_validator("zero_snr", mode="before")
    @classmethod
    def _auto_or_bool(cls, value: Any) -> Any:
        if not isinstance(value, bool) and value != "auto":  # pydantic would accept "yes" or 1 as a bool
            msg = "expected auto, true or false"
            raise ValueError(msg)
        return value

    @field_validator("shift", mode="before")
    @classmethod
    def _auto_or_shift(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (number and LEAST_SHIFT <= value <= MOST_SHIFT):
            msg = f"expected auto, or a number from {LEAST_SHIFT:g} (levels as they are) to {MOST_SHIFT:g}"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _shift_is_of_a_flow(self) -> Self:
        if self.shift != "auto" and self.prediction not in ("auto", "flow"):
            msg = f"`shift` needs `prediction: flow`, and the prediction is {self.prediction}: leave it out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _zero_snr_predicts_v(self) -> Self:
        if self.prediction == "flow" and self.zero_snr is True:
            msg = "`zero_snr` is of models that predict v; a flow begins in pure noise anyway: leave it out"
            raise ValueError(msg)
        if self.prediction == "epsilon" and self.zero_snr is True:
            msg = (
                "`zero_snr: true` needs `prediction: v_prediction`: where the input is pure noise, predicting the "
                "noise says nothing about the image"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="before")
    @classmethod
    def _hires_of_prompts(cls, data: Any) -> Any:
        """Give prompts with settings of a second pass the suite's for those that they leave out."""
        prompts = data.get("prompts") if isinstance(data, Mapping) else None
        if not isinstance(prompts, (list, tuple)):
            return data
        return {**data, "prompts": [_with_hires(prompt, data.get("hires")) for prompt in prompts]}

    @model_validator(mode="before")
    @classmethod
    def _usual_emphasis(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("emphasis") is None and data.get("syntax", "a1111") == "a1111":
            return {**data, "emphasis": "original"}
        return data

    @model_validator(mode="before")
    @classmethod
    def _names_in_any_spelling(cls, data: Any) -> Any:  # the last such validator is the first that runs
        return in_usual_spelling(data) if isinstance(data, Mapping) else data

    @field_validator(*_NAMES, mode="before")
    @classmethod
    def _known_names(cls, value: Any, info: ValidationInfo) -> Any:
        return as_named(value, _NAMES[str(info.field_name)])

    @model_validator(mode="after")
    def _syntax_has_settings(self) -> Self:
        if self.syntax != "a1111" and self.emphasis is not None:
            msg = f"`emphasis` is a setting of A1111, and the syntax is {self.syntax}: leave it out"
            raise ValueError(msg)
        if self.syntax == "plain" and self.embeddings is not None:
            msg = "`embeddings` are not read in plain prompts: set `syntax: a1111` or `syntax: comfyui`"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _loras_fit(self) -> Self:
        if self.syntax != "a1111" and self.lora_folder is not None:
            msg = (
                f"`lora_folder` is for <lora:...> in prompts, which only A1111 reads, and the syntax is {self.syntax}: "
                "name the files under `loras` of the suite instead"
            )
            raise ValueError(msg)
        if len({lora.path for lora in self.loras}) < len(self.loras):
            msg = "a LoRA of the suite is named twice: name it once, with the sum of its strengths"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _something_to_render(self) -> Self:
        items = self.items()
        if not items:
            msg = "the suite is empty: give at least one prompt, one seed and one size"
            raise ValueError(msg)
        for item in items:
            if any(side % SIZE_STEP or not SIZE_STEP <= side <= MOST_PIXELS for side in (item.width, item.height)):
                msg = (
                    f"size {item.width}x{item.height} cannot be rendered: use multiples of {SIZE_STEP} from "
                    f"{SIZE_STEP} to {MOST_PIXELS}"
                )
                raise ValueError(msg)
            impossible = why_impossible(item.sampling.hires, item.width, item.height, item.sampling.steps)
            if impossible is not None:
                raise ValueError(impossible)
        if len({replace(item, index=0, weight=1.0, without=(), group=None) for item in items}) < len(items):
            msg = "the suite contains the same render twice (prompt, seed, size and settings): remove one of them"
            raise ValueError(msg)
        return self

    def items(self) -> tuple[SuiteItem, ...]:
        """Return every item, in the order prompt, seed, size."""
        return tuple(
            SuiteItem(
                index=index,
                prompt=prompt.prompt,
                negative=self.negative if prompt.negative is None else prompt.negative,
                seed=seed,
                width=width,
                height=height,
                sampling=self._sampling(prompt),
                clip_skip=self.clip_skip if prompt.clip_skip is None else prompt.clip_skip,
                weight=prompt.weight,
                without=prompt.without,
                group=prompt.group,
            )
            for index, (_, prompt, seed, (width, height)) in enumerate(self._combinations())
        )

    def _combinations(self) -> Iterator[tuple[int, SuitePrompt, int, tuple[int, int]]]:
        """Yield number and settings of the prompt, seed and size of every item; the first prompt has the number 1."""
        for number, prompt in enumerate(self.prompts, start=1):
            for seed in self.seeds if prompt.seeds is None else prompt.seeds:
                for size in self.sizes if prompt.sizes is None else prompt.sizes:
                    yield number, prompt, seed, size

    def prompt_numbers(self) -> tuple[int, ...]:
        """Return the number of every item's prompt, counted from 1."""
        return tuple(number for number, _, _, _ in self._combinations())

    def render_labels(self) -> tuple[str, ...]:
        """Return what every item's pictures are called in file names, such as `prompt-03-seed-1`.

        A prompt with several sizes has the size as well: `prompt-03-seed-1-832x1216`.
        """
        digits = max(2, len(str(len(self.prompts))))
        labels = []
        for number, prompt, seed, (width, height) in self._combinations():
            label = f"prompt-{number:0{digits}}-seed-{seed}"
            sizes = self.sizes if prompt.sizes is None else prompt.sizes
            labels.append(f"{label}-{width}x{height}" if len(sizes) > 1 else label)
        return tuple(labels)

    def _sampling(self, prompt: SuitePrompt) -> Sampling:
        sampler = prompt.sampler or self.sampler
        steps, hires = prompt.steps or self.steps, self.hires if prompt.hires is None else prompt.hires
        sampling = Sampling(
            sampler=sampler,
            schedule=OWN_SCHEDULES.get(sampler) or prompt.schedule or self.schedule,
            steps=steps,
            cfg=self.cfg if prompt.cfg is None else prompt.cfg,
            cfg_rescale=self.cfg_rescale if prompt.cfg_rescale is None else prompt.cfg_rescale,
            pag=self.pag if prompt.pag is None else prompt.pag,
            hires=hires.model_copy(update={"steps": hires.steps or steps}) if hires.is_on else NO_HIRES,
        )
        return sampling if sampling.is_guided else replace(sampling, cfg_rescale=0.0)  # which has nothing to rescale

    def looked_at_by(self, scorer: str) -> tuple[SuiteItem, ...]:
        """Return the items that a scorer is not left out of."""
        return tuple(item for item in self.items() if scorer not in item.without)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its prompts, in the prompts' order."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts if prompt.group is not None))

    @property
    def counts_alike(self) -> bool:
        """Whether all items have the same weight, and every scorer looks at all of them."""
        return len({prompt.weight for prompt in self.prompts}) == 1 and not any(each.without for each in self.prompts)

    @property
    def has_alike_prompts(self) -> bool:
        """Whether several images have one prompt."""
        items = self.items()
        return len({item.prompt for item in items}) < len(items)

    @property
    def lora_strengths(self) -> tuple[tuple[float, float], ...]:
        """The strengths of each of `loras` for the U-Net and for the text encoders."""
        return tuple(
            (lora.strength, lora.strength if lora.text_strength is None else lora.text_strength) for lora in self.loras
        )

    @property
    def digest(self) -> str:
        """sha256 of everything that shapes the renders, 64 hex digits.

        The preset's name is excluded: its settings are written out. Settings that are left to the models' markers are
        excluded: the parents' own hashes cover the markers. So are the paths of embeddings and LoRAs, which may move:
        the content of those that are used is a fingerprint of the study. So are settings of a prompt that say who
        scores its images and how they count. Settings that a study of an earlier version could not have are excluded
        where they change nothing.
        """
        excluded = {name for name in ("prediction", "zero_snr", "shift") if getattr(self, name) == "auto"}
        excluded |= {"embeddings", "lora_folder", "loras", "preset"}
        excluded |= {name for name in _LATER if getattr(self, name) == type(self).model_fields[name].default}
        data = self.model_dump(mode="json", exclude=excluded)
        data["noise"] = data.pop("program")  # as it was called when studies began to store digests
        if self.loras:
            data["loras"] = self.lora_strengths
        for prompt in data["prompts"]:
            for name in SCORING:
                del prompt[name]
            for name in _LATER:
                if prompt[name] is None:
                    del prompt[name]
        return json_digest(data)

    @property
    def scoring_digest(self) -> str:
        """sha256 of what `digest` leaves out: who scores each image, and how it counts; 64 hex digits."""
        return json_digest([[item.weight, item.without, item.group] for item in self.items()])


def in_usual_spelling(suite: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a suite with names in the spelling of `_NAMES`; those that there are not stay."""
    spelled = dict(suite)
    for setting in _NAMES.keys() & suite.keys():
        try:
            spelled[setting] = as_named(suite[setting], _NAMES[setting])
        except ValueError:
            continue  # the field refuses it
    return spelled


def expand_prompts(value: Any) -> Any:
    """Return a list of prompts with everything but settings written out as `{prompt: TEXT}`, where a text is expected.

    A text alone is a list of one. A mapping without a key that is a setting, or a slip of one, is a text with a colon:
    `masterpiece: a lion`.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)):
        return [prompt if _is_settings(prompt) else {"prompt": prompt} for prompt in value]
    return value


def _with_hires(prompt: Any, of_suite: Any) -> Any:
    """Return a prompt whose `hires` has the suite's settings for those that it leaves out."""
    if not isinstance(prompt, Mapping) or prompt.get("hires") is None:
        return prompt
    try:
        own, usual = at_length(prompt["hires"]), at_length(of_suite)
    except ValueError:  # the fields refuse it
        return prompt
    if isinstance(usual, HiresSettings):
        usual = usual.model_dump() if usual.is_on else None
    return {**prompt, "hires": {**usual, **own}} if isinstance(own, Mapping) and isinstance(usual, Mapping) else prompt


def _is_settings(prompt: Any) -> bool:
    if isinstance(prompt, Mapping):
        if any(letters(str(key)) in PROMPT_WORDS for key in prompt):
            return True
        return any(get_close_matches(str(key).casefold(), SuitePrompt.model_fields, cutoff=0.8) for key in prompt)
    return isinstance(prompt, SuitePrompt)
