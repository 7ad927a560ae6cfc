"""The settings of Fooocus: a JSON object, or a text of A1111's form that names Fooocus as its version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from studies.spec.published.a1111_keys import notes_of_unrepeated
from studies.spec.published.settings import EXACTLY_NOT, RawSettings

FOOOCUS: Final = "Fooocus"
_PAIR: Final = re.compile(r"\(\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\)")
# Keys of its text -> what of its way to sample cannot be repeated.
_KEYS: Final = {"Sharpness": "sharpness", "ADM Guidance": "ADM guidance", "Adaptive CFG": "adaptive CFG"}


def fooocus_in_infotext(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Return how prompts of Fooocus are read, and the notes."""
    ways = [way for key, way in _KEYS.items() if key in pairs]
    loras = [f"LoRAs ({pairs['Lora weights']}; see `loras` of a suite)"] if "Lora weights" in pairs else []
    return {
        "syntax": "comfyui",
        "program": "comfyui",
        "notes": (*_notes([*ways, *loras]), *notes_of_unrepeated(pairs)),
    }


def parse_fooocus(data: Mapping[str, Any]) -> RawSettings:
    """Read the settings of Fooocus, which names each as its code does.

    The texts are those that were read, with what its styles and its expansion have added. Each was embedded by itself;
    they are joined as in its text of A1111's form.
    """
    size = _PAIR.fullmatch(str(data.get("resolution", "")))
    return RawSettings(
        made_by=FOOOCUS,
        syntax="comfyui",
        program="comfyui",
        prompt=_joined(data.get("full_prompt")) or data.get("prompt"),
        negative=_joined(data.get("full_negative_prompt")) or data.get("negative_prompt"),
        seed=data.get("seed"),
        width=size[1] if size else None,
        height=size[2] if size else None,
        steps=data.get("steps"),
        cfg=data.get("guidance_scale"),
        sampler=data.get("sampler"),
        schedule=data.get("scheduler"),
        clip_skip=data.get("clip_skip"),
        notes=tuple(_notes([*_ways(data)])),
    )


def _joined(texts: Any) -> str:
    return ", ".join(map(str, texts)) if isinstance(texts, list) else ""


def _ways(data: Mapping[str, Any]) -> Iterator[str]:
    ways = {
        "sharpness": "sharpness",
        "adm_guidance": "ADM guidance",
        "adaptive_cfg": "adaptive CFG",
        "freeu": "FreeU",
        "inpaint_method": "inpainting",
    }
    yield from (way for key, way in ways.items() if data.get(key))
    if str(data.get("refiner_model", "None")) not in {"", "None"}:
        yield "the refiner"
    loras = [str(value)[:80] for key, value in data.items() if key.startswith("lora_combined_")]
    if loras:
        yield f"LoRAs ({', '.join(loras)}; see `loras` of a suite)"


def _notes(ways: Sequence[str]) -> Iterator[str]:
    """Yield the notes of a picture of Fooocus.

    Args:
        ways: what of it cannot be repeated.
    """
    yield f"Fooocus weighs words and samples in its own way: {EXACTLY_NOT}"
    if ways:
        yield f"not repeated: {', '.join(ways)}"
