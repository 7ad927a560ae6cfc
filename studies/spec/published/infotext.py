"""The text that A1111, Forge, Fooocus and many others write about a picture, read and written.

The prompt, which may have several lines; the negative prompt after `Negative prompt:`; and in the last line
`Steps: 26, Sampler: Euler a, ...`, in which a value with a comma or colon is a JSON string. What is not said has the
program's default: clip skip 1, and noise drawn on the graphics card. A sampler without a schedule has even levels, as
in A1111 before 1.9, which names none but in the sampler's name; since then it names one always.

Ours names the program as its version, and then what A1111 has no key for. A prompt that these rules would not give back
as it was (it begins with a space, or has a line of settings in it) stands once more as a JSON string.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from studies.spec.published.a1111_keys import notes_of_unknown, notes_of_unrepeated
from studies.spec.published.fooocus import FOOOCUS, fooocus_in_infotext
from studies.spec.published.hires import raw_hires, said_of_hires
from studies.spec.published.settings import EXACTLY_NOT, OURS, PublishedError, RawSettings
from studies.spec.sampler_names import read_sampler, read_schedule
from studies.spec.samplers import (
    A1111_FORMS,
    PROGRAMS,
    SAMPLER_INFOS,
    ProgramName,
    SamplerName,
    ScheduleName,
    in_a1111,
    in_program,
    usual_schedule,
)
from studies.spec.suite import Emphasis, SizeConditioning, SuiteItem, SuiteLora, SuiteSettings, Syntax

_SAYS_ENSD: Final = frozenset(name for name, info in SAMPLER_INFOS.items() if info.says_ensd)
_OF_TIMES: Final = frozenset(plain for plain, form in A1111_FORMS.items() if SAMPLER_INFOS[form].of_times)
_EMPHASES: Final[Mapping[str, Emphasis]] = {
    "Original": "original", "No norm": "no_norm", "None": "none", "Ignore": "ignore",
}  # fmt: skip
NEGATIVE: Final = "Negative prompt:"
_PAIR: Final = re.compile(r'([A-Za-z][\w \-/.]{0,60}):\s*("(?:\\.|[^"\\])*+"|[^,]*)(?:,|$)')
_BEFORE_SCHEDULES: Final = re.compile(r"v1\.[0-8]\.")  # versions of A1111, which those of Forge contain
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_NUMBERS: Final = re.compile(r"(\d{1,18})x(\d{1,18})")
_SIZE_KEYS: Final = {"Original size": "original", "Crop": "crop", "Target size": "target"}  # ours -> a suite's
_SUITE_LORAS: Final = "Suite LoRAs"  # our key
_FORM: Final = "Sampler form"  # our key: a sampler by our name, where the menu's name means another one
_PROGRAM: Final = "Noise"  # the suite's `program`, by the key that texts of ours have had from the first


def is_infotext(text: str) -> bool:
    """Return whether a text looks like A1111's: a line that names the steps and at least two more settings."""
    return any(_is_settings_line(line) for line in text.splitlines())


def parse_infotext(text: str) -> RawSettings:
    """Read the text of one picture.

    Raises:
        PublishedError: it has no line of settings.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    place = next((row for row in range(len(lines) - 1, -1, -1) if _is_settings_line(lines[row])), None)
    if place is None:
        raise PublishedError("no line `Steps: ..., Sampler: ..., Seed: ...` in its text")
    begin = next((row for row in range(place) if lines[row].startswith(NEGATIVE)), place)
    pairs = _pairs(lines[place])
    size = _size(pairs)
    if _is_from_a_picture(pairs):
        raise PublishedError("it was made from another picture (img2img), which its settings do not hold")
    prompt = "\n".join(lines[:begin])
    negative = "\n".join(lines[begin:place]).removeprefix(NEGATIVE).strip()
    said: dict[str, Any] = {
        "seed": pairs.get("Seed"),
        "width": size[0] if size else None,
        "height": size[1] if size else None,
        "steps": pairs.get("Steps"),
        "cfg": pairs.get("CFG scale"),
        "sampler": pairs.get("Sampler"),
        "schedule": pairs.get("Schedule type", pairs.get("Scheduler")),
        "clip_skip": pairs.get("Clip skip"),
        "hires": raw_hires(pairs),
    }
    version = pairs.get("Version", "")
    if version == OURS:
        prompt, negative = pairs.get("Prompt", prompt), pairs.get("Negative", negative)
        return RawSettings(made_by=OURS, prompt=prompt, negative=negative, **(said | _ours(pairs)))
    if version.startswith(FOOOCUS):
        return RawSettings(made_by=FOOOCUS, prompt=prompt, negative=negative, **said, **fooocus_in_infotext(pairs))
    said["schedule"] = said["schedule"] or _unnamed_schedule(pairs)
    of_suite = _of_a1111(pairs, uses_weights=bool(set("([") & set(prompt + negative)))
    return RawSettings(made_by="A1111", prompt=prompt, negative=negative, **said, **of_suite)


def _is_from_a_picture(pairs: Mapping[str, str]) -> bool:
    """Return whether a picture was made from another: hires fix, in either of its forms, has a strength as well."""
    has_hires_fix = any(key.startswith(("Hires", "First pass size")) for key in pairs)
    return "Mask blur" in pairs or ("Denoising strength" in pairs and not has_hires_fix)


def _size(pairs: Mapping[str, str]) -> tuple[int, int] | None:
    """Return width and height of what was rendered first; None if the text does not say.

    A1111's first hires fix named the first pass beside the whole picture's size, and 0x0 where it chose one by itself
    (`restore_old_hires_fix_params` and `old_hires_fix_first_pass_dimensions`).
    """
    whole, first = (_SIZE.fullmatch(pairs.get(key, "")) for key in ("Size", "First pass size"))
    if first is not None and int(first[1]) and int(first[2]):
        return int(first[1]), int(first[2])
    if whole is None:
        return None
    width, height = int(whole[1]), int(whole[2])
    if first is None or not width * height:
        return width, height
    scale = math.sqrt(512 * 512 / (width * height))
    return math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64


def _unnamed_schedule(pairs: Mapping[str, str]) -> str | None:
    """Return the schedule of a text that has no key for it; None for the usual one, or that of the sampler's name."""
    try:
        sampler, joint = read_sampler(pairs.get("Sampler", ""))
    except ValueError:  # which is told when the sampler is read
        return None
    is_automatic = pairs["Sampler"].casefold().endswith(("auto", "automatic"))
    is_usual = sampler in A1111_FORMS or usual_schedule(sampler) == "normal"  # the former have levels of their own
    return None if joint is not None or is_automatic or is_usual else "normal"


def _of_a1111(pairs: Mapping[str, str], *, uses_weights: bool) -> dict[str, Any]:
    """Return the settings of a whole suite that A1111 has, and the notes.

    Some are said only where they have a part in the picture, and only if they are not the default.
    """
    try:
        sampler = read_sampler(pairs.get("Sampler", ""))[0]
    except ValueError:  # which is told when the sampler is read
        sampler = None
    emphasis = _EMPHASES.get(pairs.get("Emphasis", "Original")) if uses_weights or "Emphasis" in pairs else None
    sgm = None if sampler in _OF_TIMES else pairs.get("SGM noise multiplier") == "True"
    return {
        "syntax": "a1111",
        "program": "a1111",
        "ensd": pairs.get("ENSD", 0 if sampler in _SAYS_ENSD else None),
        "emphasis": emphasis,
        "sgm_noise_multiplier": sgm,
        "size_conditioning": SizeConditioning(),
        "notes": (*notes_of_unrepeated(pairs), *notes_of_unknown(pairs), *_notes(pairs), *_notes_of_noise(pairs)),
    }


def _ours(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Return the sampler, guidance, and the settings of the whole suite, of a picture of ours.

    Raises:
        PublishedError: one is not what we write.
    """
    sizes = {name: _two_numbers(pairs, key) for key, name in _SIZE_KEYS.items() if key in pairs}
    syntax = _one_of(pairs, "Syntax", get_args(Syntax), "a1111")
    program = cast(ProgramName, _one_of(pairs, _PROGRAM, PROGRAMS, "a1111"))
    try:
        sampler, schedule = _meant(pairs.get(_FORM, pairs.get("Sampler", "")), pairs.get("Schedule type"), program)
    except ValueError as error:
        raise PublishedError(str(error)) from error
    return {
        "sampler": sampler,
        "schedule": schedule,
        "cfg_rescale": pairs.get("CFG rescale"),
        "pag_scale": pairs.get("PAG scale"),
        "pag_layers": tuple(pairs.get("PAG layers", "mid").split()),
        "syntax": syntax,
        "program": program,
        "ensd": pairs.get("ENSD", 0),
        "emphasis": _EMPHASES[_one_of(pairs, "Emphasis", tuple(_EMPHASES), "Original")] if syntax == "a1111" else None,
        "sgm_noise_multiplier": pairs.get("SGM noise multiplier") == "True",
        "size_conditioning": SizeConditioning.model_validate(sizes),
        "notes": tuple(
            f"it was made with `loras` of its suite: {pairs[key]}; name their files there to repeat it"
            for key in pairs.keys() & {_SUITE_LORAS}
        ),
    }


def _one_of(pairs: Mapping[str, str], key: str, known: Sequence[str], default: str) -> str:
    """Return the value of a key.

    Raises:
        PublishedError: it is none that is known.
    """
    value = pairs.get(key, default)
    if value not in known:
        raise PublishedError(f"expected one of {', '.join(known)} as {key}, got {value[:40]!r}")
    return value


def _two_numbers(pairs: Mapping[str, str], key: str) -> tuple[int, int]:
    """Return the value of a key, two numbers with an x between them.

    Raises:
        PublishedError: it is anything else.
    """
    found = _NUMBERS.fullmatch(pairs[key])
    if found is None:
        raise PublishedError(f"expected two numbers (1024x768) as {key}, got {pairs[key][:40]!r}")
    return int(found[1]), int(found[2])


def _is_settings_line(line: str) -> bool:
    pairs = _pairs(line)
    return "Steps" in pairs and len(pairs) >= 3


def _pairs(line: str) -> dict[str, str]:
    if "Steps:" not in line:
        return {}
    return {key.strip(): _unquoted(value.strip()) for key, value in _PAIR.findall(line)}


def _unquoted(value: str) -> str:
    if not (len(value) > 1 and value[0] == value[-1] == '"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _notes(pairs: Mapping[str, str]) -> Iterator[str]:
    if pairs.get("Emphasis", "Original") not in _EMPHASES:
        yield f"not repeated: its way of emphasis ({pairs['Emphasis'][:40]})"
    if _leaves_schedule_open(pairs):
        yield "it names no schedule, so it is given that of A1111 before 1.9: even levels (`schedule: normal`)"
    if pairs.get("Clip skip", "1") not in {"0", "1", "2"}:
        yield "A1111 ignores its clip skip with SDXL models, and a suite does not: set `clip_skip: 2` for those"


def _leaves_schedule_open(pairs: Mapping[str, str]) -> bool:
    """Return whether a schedule is neither named nor known by the program's version, and another one may be meant."""
    if {"Schedule type", "Scheduler"} & pairs.keys() or _unnamed_schedule(pairs) is None:
        return False
    return _BEFORE_SCHEDULES.search(pairs.get("Version", "")) is None


def _notes_of_noise(pairs: Mapping[str, str]) -> Iterator[str]:
    if pairs.get("RNG", "GPU") == "GPU":
        yield f"its noise was drawn on the graphics card (RNG: GPU), so {EXACTLY_NOT}"
    elif pairs["RNG"] != "CPU":
        yield f"its noise was drawn as {pairs['RNG'][:20]}, so {EXACTLY_NOT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNames:
    """The model that a render shows."""

    name: str
    sha256: str | None = None  # the beginning of its file's; None for a merge that is in no file
    recipe: str | None = None  # the beginning of the sha256 of a merge's recipe


def write_infotext(item: SuiteItem, suite: SuiteSettings, model: ModelNames | None = None) -> str:
    """Return the text of a render of ours, much as A1111 would write it; `parse_infotext` gives all of it back.

    Args:
        suite: what the item belongs to.
        model: what it shows, which other programs then name; None: it is not told.
    """
    negative = f"{NEGATIVE} {item.negative}\n" if item.negative else ""
    said = _said(item) | _said_of_model(model) | _said_of_suite(suite) | _said_of_form(item, suite)
    line = ", ".join(f"{key}: {value}" for key, value in said.items())
    plain = f"{item.prompt}\n{negative}{line}"
    read = parse_infotext(plain)
    unlike = {
        key: json.dumps(text)
        for key, text, found in (("Prompt", item.prompt, read.prompt), ("Negative", item.negative, read.negative))
        if text != found
    }
    return ", ".join([plain, *(f"{key}: {value}" for key, value in unlike.items())])


def _said(item: SuiteItem) -> dict[str, object]:
    """Return the settings of a render by A1111's names."""
    sampling = item.sampling
    sampler, schedule = in_a1111(sampling.sampler, sampling.schedule)
    guidance: dict[str, object] = {"CFG rescale": sampling.cfg_rescale} if sampling.cfg_rescale else {}
    if sampling.pag.scale:
        guidance |= {"PAG scale": sampling.pag.scale, "PAG layers": " ".join(sampling.pag.layers)}
    return {
        "Steps": sampling.steps,
        "Sampler": sampler,
        **({} if schedule is None else {"Schedule type": schedule}),
        "CFG scale": sampling.cfg,
        "Seed": item.seed,
        "Size": f"{item.width}x{item.height}",
        "Clip skip": item.clip_skip,
        **guidance,
        **said_of_hires(sampling.hires),
    }


def _said_of_form(item: SuiteItem, suite: SuiteSettings) -> dict[str, object]:
    """Return a sampler by our name where A1111's name of it would be read as another one."""
    sampler, schedule = item.sampling.sampler, item.sampling.schedule
    menu, named = in_a1111(sampler, schedule)
    return {} if _meant(menu, named, suite.program) == (sampler, schedule) else {_FORM: sampler}


def _meant(menu: str, schedule: str | None, program: ProgramName) -> tuple[SamplerName, ScheduleName]:
    """Return what a sampler and a schedule of a text of ours mean.

    Raises:
        ValueError: there is none of this name.
    """
    sampler, joint = read_sampler(menu)
    return in_program(sampler, joint if schedule is None else read_schedule(schedule), program)


def _said_of_model(model: ModelNames | None) -> dict[str, object]:
    """Return a model by A1111's names; what a colon, a comma or another line would break is a JSON string."""
    if model is None:
        return {}
    said: dict[str, object] = {} if model.sha256 is None else {"Model hash": model.sha256}
    breaks = any(sign in model.name for sign in ',:"') or model.name.splitlines() != [model.name]
    said["Model"] = json.dumps(model.name) if breaks else model.name
    return said if model.recipe is None else said | {"Recipe hash": model.recipe}


def _said_of_suite(suite: SuiteSettings) -> dict[str, object]:
    """Return the settings of a suite that are not the default, and the program's name."""
    values: dict[str, object] = {"ENSD": suite.ensd} if suite.ensd else {}
    if suite.emphasis not in {None, "original"}:
        values["Emphasis"] = next(name for name, emphasis in _EMPHASES.items() if emphasis == suite.emphasis)
    if suite.sgm_noise_multiplier:
        values["SGM noise multiplier"] = True
    values |= {"RNG": "CPU", "Version": OURS}
    if suite.syntax != "a1111":
        values["Syntax"] = suite.syntax
    if suite.program != "a1111":
        values[_PROGRAM] = suite.program
    if suite.loras:
        values[_SUITE_LORAS] = json.dumps("; ".join(_with_strength(lora) for lora in suite.loras), ensure_ascii=False)
    for key, name in _SIZE_KEYS.items():
        numbers = getattr(suite.size_conditioning, name)
        if numbers != SizeConditioning.model_fields[name].default:
            values[key] = "x".join(map(str, numbers))
    return values


def _with_strength(lora: SuiteLora) -> str:
    text = "" if lora.text_strength is None else f" (text {lora.text_strength:g})"
    return f"{lora.path.stem} {lora.strength:g}{text}"
