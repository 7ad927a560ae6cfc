"""What a published picture says about how it was made, in the words of a spec."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from studies.errors import StudyError
from studies.spec.a1111_prompts import LORA, Tag, tags_in, without_tags
from studies.spec.hires import HiresSettings
from studies.spec.pag import PagSettings
from studies.spec.published.brackets import with_closed_brackets
from studies.spec.published.hires import RawHires, second_pass
from studies.spec.sampler_names import read_sampler, read_schedule
from studies.spec.samplers import ProgramName, SamplerName, ScheduleName
from studies.spec.sizes import MOST_PIXELS, SIZE_STEP
from studies.spec.suite import Emphasis, SizeConditioning, Syntax

MOST_CHARACTERS: Final = 20_000  # of a prompt; far more than any text encoder is given
EXACTLY_NOT: Final = "the picture cannot be repeated exactly"
OURS: Final = "mergetune"  # the program that our own pictures name
# Fields of `PublishedSettings` that a suite has one of for all of its prompts. The first decides what prompts say.
SUITE_WIDE: Final = ("syntax", "program", "ensd", "emphasis", "sgm_noise_multiplier", "size_conditioning")
_SHOWN_OF_NAME: Final = 80  # characters of a LoRA's name in a note
_EMBEDDING: Final = re.compile(r"\bembedding:\S")
_UNSEEN: Final = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), " ")  # but tabs and ends of lines


class PublishedError(StudyError):
    """A picture or text without settings, or with settings that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSettings:
    """How a published picture was made."""

    prompt: str
    negative: str = ""
    seed: int
    width: int  # pixels
    height: int
    steps: int
    cfg: float
    sampler: SamplerName
    schedule: ScheduleName | None = None  # None: the sampler's usual one
    clip_skip: int = 1
    cfg_rescale: float | None = None  # and `pag`: None where the program says nothing about it
    pag: PagSettings | None = None
    hires: HiresSettings | None = None  # None: there is no second pass, or none that a suite can have
    syntax: Syntax
    # Settings of a whole suite; None where the program says nothing about one, or it has no part in the picture.
    program: ProgramName | None = None
    ensd: int | None = None  # A1111's "eta noise seed delta"
    emphasis: Emphasis | None = None
    sgm_noise_multiplier: bool | None = None
    size_conditioning: SizeConditioning | None = None
    notes: tuple[str, ...] = ()  # what cannot be done as it was, one line each


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSettings:
    """Settings as a program wrote them; values are texts or numbers, None where it says nothing."""

    made_by: str  # the program, by its name
    syntax: Syntax
    prompt: Any
    negative: Any = None
    seed: Any
    width: Any
    height: Any
    steps: Any
    cfg: Any
    sampler: Any
    schedule: Any = None
    clip_skip: Any = None
    cfg_rescale: Any = None
    pag_scale: Any = None
    pag_layers: tuple[str, ...] = ("mid",)
    hires: RawHires | None = None
    ensd: Any = None
    # As in `PublishedSettings`, which their readers know.
    program: ProgramName | None = None
    emphasis: Emphasis | None = None
    sgm_noise_multiplier: bool | None = None
    size_conditioning: SizeConditioning | None = None
    notes: tuple[str, ...] = ()


def named_as_ours(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that several programs call as we do."""
    return {name: data.get(name) for name in ("seed", "width", "height", "steps")}


def checked(raw: RawSettings) -> PublishedSettings:
    """Return settings that a suite can have.

    Raises:
        PublishedError: one is missing, out of range, or not known.
    """
    prompt, negative = _text(raw.prompt, "prompt"), _text(raw.negative or "", "negative prompt")
    width, height = (_whole(value, "size", SIZE_STEP, MOST_PIXELS) for value in (raw.width, raw.height))
    rendered, steps = (_rounded(width), _rounded(height)), _whole(raw.steps, "steps", 1, 1000)
    sampler, schedule = _sampling(raw)
    notes = [*raw.notes, *_notes_of_text(prompt, negative, raw.syntax)]
    if raw.sampler.casefold().endswith("gpu"):
        notes.append(f"noise of {raw.sampler[:40]} was drawn on the graphics card: it cannot be repeated exactly")
    if raw.made_by != OURS:  # ours stand as they were written
        if raw.syntax == "a1111":
            prompt = _as_a1111_reads(prompt, raw, notes, keeps_loras=True)
            negative = _as_a1111_reads(negative, raw, notes, keeps_loras=False)
        prompt, negative = prompt.strip(), negative.strip()
    if not prompt:
        raise PublishedError(f"{raw.made_by}'s settings have no prompt")
    hires = None
    if raw.hires is not None:
        hires, why_not = second_pass(raw.hires, width, height, rendered=rendered, first_steps=steps)
        notes += [] if why_not is None else [why_not]
    if rendered != (width, height):
        notes.append(f"size {width}x{height} is rendered as {rendered[0]}x{rendered[1]}: multiples of {SIZE_STEP}")
    return PublishedSettings(
        prompt=prompt,
        negative=negative,
        seed=_whole(raw.seed, "seed", 0, 2**64 - 1),
        width=rendered[0],
        height=rendered[1],
        steps=steps,
        cfg=_number(raw.cfg, "CFG scale", 0, 100),
        sampler=sampler,
        schedule=schedule,
        clip_skip=max(1, _whole(raw.clip_skip or 1, "clip skip", 0, 11)),
        cfg_rescale=None if raw.cfg_rescale is None else _number(raw.cfg_rescale, "CFG rescale", 0, 1),
        pag=None if raw.pag_scale is None else _pag(raw),
        hires=hires,
        syntax=raw.syntax,
        program=raw.program,
        ensd=None if raw.ensd is None else _whole(raw.ensd, "ENSD", 1 - 2**63, 2**63 - 1),
        emphasis=raw.emphasis,
        sgm_noise_multiplier=raw.sgm_noise_multiplier,
        size_conditioning=raw.size_conditioning,
        notes=tuple(dict.fromkeys(notes)),
    )


def _as_a1111_reads(text: str, raw: RawSettings, notes: list[str], *, keeps_loras: bool) -> str:
    """Return a prompt as A1111 reads it where our reader would refuse it.

    A1111 takes <kind:name> out, and a round bracket that nothing closes weighs all that follows it.

    Args:
        text: the prompt.
        raw: what it belongs to.
        notes: for the user, to which is added what was changed.
        keeps_loras: whether the tags of LoRAs stay.
    """

    def is_taken_out(tag: Tag) -> bool:
        return not (keeps_loras and _names_lora(tag))

    others = dict.fromkeys(tag.text for tag in tags_in(text) if is_taken_out(tag))
    text = without_tags(text, is_taken_out)
    if others:
        notes.append(f"taken out of the prompt, as A1111 does: {', '.join(others)[:80]}")
    closed = text if raw.emphasis == "none" else with_closed_brackets(text)
    if closed != text:
        notes.append("a ( in its prompt is not closed: A1111 weighs all that follows it, so it is closed at the end")
    return closed


def _sampling(raw: RawSettings) -> tuple[SamplerName, ScheduleName | None]:
    try:
        sampler, joint = read_sampler(_text(raw.sampler, "sampler"))
        return sampler, joint if raw.schedule is None else read_schedule(_text(raw.schedule, "schedule"))
    except ValueError as error:
        raise PublishedError(str(error)) from error


def _pag(raw: RawSettings) -> PagSettings:
    scale = _number(raw.pag_scale, "PAG scale", 0, 100)
    try:
        return PagSettings(scale=scale, layers=raw.pag_layers)
    except ValidationError as error:
        raise PublishedError(f"its PAG layers are not known: {_shown(' '.join(raw.pag_layers))}") from error


def _notes_of_text(prompt: str, negative: str, syntax: Syntax) -> Iterator[str]:
    loras = dict.fromkeys(tag.name[:_SHOWN_OF_NAME] for tag in tags_in(prompt) if _names_lora(tag))
    if loras and syntax == "a1111":  # other syntaxes have no `lora_folder`
        yield f"its prompt names LoRAs: {', '.join(loras)} (their folder is `lora_folder` of a suite)"
    if syntax == "comfyui" and _EMBEDDING.search(prompt + " " + negative):
        yield "embeddings are named in the prompt: give their folder as `embeddings` of the suite"


def _names_lora(tag: Tag) -> bool:
    return tag.kind == LORA and tag.name != "" and "<" not in tag.text[1:]


def _rounded(pixels: int) -> int:
    return max(SIZE_STEP, round(pixels / SIZE_STEP) * SIZE_STEP)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise PublishedError(f"expected a text as {what}, got {_shown(value)}")
    if len(value) > MOST_CHARACTERS:
        raise PublishedError(f"the {what} has {len(value):,} characters, and at most {MOST_CHARACTERS:,} are read")
    return value.replace("\r\n", "\n").replace("\r", "\n").translate(_UNSEEN)


def _number(value: Any, what: str, low: float, high: float) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        raise PublishedError(f"expected a number from {low:g} to {high:g} as {what}, got {_shown(value)}")
    return number


def _whole(value: Any, what: str, low: int, high: int) -> int:
    try:
        number = int(value) if not isinstance(value, (bool, float)) or value == int(value) else low - 1
    except (TypeError, ValueError, OverflowError):
        number = low - 1
    if not low <= number <= high:
        raise PublishedError(f"expected a whole number from {low} to {high} as {what}, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
