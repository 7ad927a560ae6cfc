"""The text that A1111, Forge and many others write about a picture, read and written.

The prompt, which may have several lines; the negative prompt after `Negative prompt:`; and in the last line
`Steps: 26, Sampler: Euler a, ...`, in which a value with a comma or colon is a JSON string. What is not said has the
program's default: clip skip 1, noise drawn on the graphics card, and the sampler's usual schedule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from studies.spec.published.settings import PublishedError, RawSettings
from studies.spec.suite import SuiteItem

NEGATIVE: Final = "Negative prompt:"
_PAIR: Final = re.compile(r'\s*([A-Za-z][\w \-/.]{0,60}):\s*("(?:\\.|[^"\\])*+"|[^,]*)(?:,|$)')
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_CANNOT: Final = {  # beginning of a key -> what of the picture cannot be repeated
    "Hires": "hires fix (the first pass alone is rendered)",
    "First pass size": "hires fix (the first pass alone is rendered)",
    "Refiner": "the refiner",
    "ADetailer": "ADetailer",
    "ControlNet": "ControlNet",
    "Regional Prompter": "regional prompts",
    "RP ": "regional prompts",
    "Face restoration": "face restoration",
    "Variation seed": "variation seeds",
    "Seed resize from": "seed resizing",
    "Tiling": "tiling",
    "FreeU": "FreeU",
    "Dynamic thresholding": "dynamic thresholding",
    "Token merging": "token merging",
    "Discard penultimate sigma": "a level that is left out",
    "Noise Schedule": "its noise schedule (see `zero_snr` of a suite)",
    "Schedule rho": "its own noise levels",
    "Schedule max sigma": "its own noise levels",
    "Schedule min sigma": "its own noise levels",
    "Sigma ": "its churn (sigma churn, tmin, tmax, noise)",
    "Eta": "its eta",
    "NGMS": "steps without the negative prompt (NGMS)",
    "Skip Early CFG": "early steps without guidance",
    "Pad conds": "padded prompts",
    "Emphasis": "its way of emphasis (see `emphasis` of a suite)",
    "SGM noise multiplier": "its first noise (see `sgm_noise_multiplier` of a suite)",
}


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
    size = _SIZE.fullmatch(pairs.get("Size", ""))
    if "Mask blur" in pairs or ("Denoising strength" in pairs and not any(key.startswith("Hires") for key in pairs)):
        raise PublishedError("it was made from another picture (img2img), which its settings do not hold")
    return RawSettings(
        program="A1111",
        syntax="a1111",
        prompt="\n".join(lines[:begin]),
        negative="\n".join(lines[begin:place]).removeprefix(NEGATIVE).strip(),
        seed=pairs.get("Seed"),
        width=size[1] if size else None,
        height=size[2] if size else None,
        steps=pairs.get("Steps"),
        cfg=pairs.get("CFG scale"),
        sampler=pairs.get("Sampler"),
        schedule=pairs.get("Schedule type"),
        clip_skip=pairs.get("Clip skip"),
        ensd=pairs.get("ENSD"),
        notes=tuple(_notes(pairs)),
    )


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
    cannot = [what for key in pairs for beginning, what in _CANNOT.items() if key.startswith(beginning)]
    if cannot:
        yield f"not repeated: {', '.join(dict.fromkeys(cannot))}"
    if pairs.get("RNG", "GPU") == "GPU":
        yield "its noise was drawn on the graphics card (RNG: GPU), so the picture cannot be repeated exactly"
    elif pairs["RNG"] != "CPU":
        yield f"its noise was drawn as {pairs['RNG'][:20]}, so the picture cannot be repeated exactly"


def write_infotext(item: SuiteItem, ensd: int) -> str:
    """Return the text of a render of ours, as A1111 would write it; `parse_infotext` reads it back."""
    sampling = item.sampling
    values: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "Schedule type": sampling.schedule,
        "CFG scale": sampling.cfg,
        "Seed": item.seed,
        "Size": f"{item.width}x{item.height}",
        "Clip skip": item.clip_skip,
    }
    if ensd:
        values["ENSD"] = ensd
    line = ", ".join(f"{key}: {value}" for key, value in (values | {"RNG": "CPU"}).items())
    negative = f"{NEGATIVE} {item.negative}\n" if item.negative else ""
    return f"{item.prompt}\n{negative}{line}"
