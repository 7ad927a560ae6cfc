"""The settings of InvokeAI: a JSON object, `invokeai_metadata` or the older `sd-metadata`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import PublishedError, RawSettings, named_as_ours

# InvokeAI's samplers are diffusers' (backend/stable_diffusion/schedulers), of which some are no others' under the name.
# The end `_k` of a name says Karras' levels, and all other names have none; but these have levels of their own.
_NOT_DONE: Final[Mapping[str, str]] = {
    "deis": "DEIS",
    "ddpm": "DDPM",
    "pndm": "PNDM",
    "plms": "PLMS",
    "tcd": "TCD",
    "dpmpp_2s": "a second order without noise, one step at a time",
    "dpmpp_3m": "the third order without noise",
}
_OWN_LEVELS: Final = frozenset({"ddim", "lcm"})
# Before 2.3 its samplers were k-diffusion's (backend/generate.py), with Karras' levels up to 29 steps (`--karras_max`).
_OF_K_DIFFUSION: Final = re.compile(r"v?(?:1|2\.[0-2])\b")
_KARRAS_STEPS: Final = 29
_OLDER_NAMES: Final = {"k_dpmpp_2": "dpmpp_2m", "k_dpmpp_2_a": "dpmpp_2s_ancestral"}
_COMPEL: Final = re.compile(r"\)(?:[+-]+|[\d.]+)|\w[+-]{2,}|\.(?:and|blend|swap)\(")


def parse_invokeai(data: Any) -> RawSettings:
    """Read `invokeai_metadata`, or the older `sd-metadata`.

    Raises:
        PublishedError: it is no object, the picture was made from another one, or its sampler is not done here.
    """
    if not isinstance(data, Mapping):
        raise PublishedError("InvokeAI's settings are not a JSON object")
    if isinstance(data.get("image"), Mapping):
        return _older(data["image"], str(data.get("app_version") or "2"))
    if str(data.get("generation_mode", "txt2img")) not in {"txt2img", "sdxl_txt2img"}:
        raise PublishedError(f"it was made by {str(data['generation_mode'])[:40]}, and only txt2img is read")
    return RawSettings(
        made_by="InvokeAI",
        syntax="plain",
        prompt=data.get("positive_prompt"),
        negative=data.get("negative_prompt"),
        **named_as_ours(data),
        cfg=data.get("cfg_scale"),
        **_sampling(data.get("scheduler")),
        clip_skip=_clip_skip(data.get("clip_skip")),
        notes=tuple(_notes(data)),
    )


def _sampling(name: Any) -> dict[str, Any]:
    """Return the sampler and the schedule of a name.

    Raises:
        PublishedError: it is a sampler that only diffusers has.
    """
    if not isinstance(name, str):
        return {"sampler": name}
    sampler = name.removesuffix("_k")
    if sampler in _NOT_DONE:
        raise PublishedError(f"InvokeAI's sampler {name} ({_NOT_DONE[sampler]}) is not done here")
    if sampler == "unipc":
        sampler = "uni_pc_bh2"  # of its second order, where ComfyUI's has the third
    if sampler in _OWN_LEVELS:
        return {"sampler": sampler}
    return {"sampler": sampler, "schedule": "karras" if name.endswith("_k") else "normal"}


def _clip_skip(skipped: Any) -> Any:
    """Return A1111's number for InvokeAI's, which counts the layers that are left out."""
    return skipped + 1 if isinstance(skipped, int) and not isinstance(skipped, bool) else skipped


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
    yield "InvokeAI samples with diffusers' schedulers, whose levels are not quite these: it cannot be repeated exactly"
    used = {
        "loras": "LoRAs (see `loras` of a suite)",
        "controlnets": "ControlNet",
        "ipAdapters": "IP adapters",
        "t2iAdapters": "T2I adapters",
        "refiner_model": "the refiner",
        "hrf_enabled": "the high resolution fix",
        "regions": "regional prompts",
        "cfg_rescale_multiplier": "CFG rescaling",
    }
    found = [what for key, what in used.items() if data.get(key)]
    if found:
        yield f"not repeated: {', '.join(found)}"
    if str(data.get("rand_device", "cpu")) != "cpu":
        yield "its noise was drawn on the graphics card, so the picture cannot be repeated exactly"
    if _COMPEL.search(str(data.get("positive_prompt", ""))):
        yield "weights in InvokeAI's syntax are read as plain text"


def _older(image: Mapping[str, Any], version: str) -> RawSettings:
    prompt = image.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("prompt")
    positive, negative = _brackets(str(prompt or ""))
    name, steps = image.get("sampler"), image.get("steps")
    sampling = _sampling(_OLDER_NAMES.get(str(name), name))
    is_of_k_diffusion = version == "2" or _OF_K_DIFFUSION.match(version) is not None
    if is_of_k_diffusion and str(name).startswith("k_") and isinstance(steps, int):
        sampling["schedule"] = "karras" if steps <= _KARRAS_STEPS else "normal"
    return RawSettings(
        made_by="InvokeAI",
        syntax="plain",
        prompt=positive,
        negative=negative,
        **named_as_ours(image),
        cfg=image.get("cfg_scale"),
        **sampling,
    )


def _brackets(prompt: str) -> tuple[str, str]:
    """Return the prompt, and the negative one, which stands in square brackets."""
    negative = re.findall(r"\[([^\[\]]*)\]", prompt)
    return re.sub(r"\[[^\[\]]*\]", "", prompt).strip(" ,"), ", ".join(negative)
