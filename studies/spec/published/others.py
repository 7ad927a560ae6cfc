"""The settings of InvokeAI, SwarmUI and Fooocus, each a JSON object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.infotext import FOOOCUS, notes_of_fooocus
from studies.spec.published.settings import PublishedError, RawSettings

# InvokeAI's samplers are diffusers' (backend/stable_diffusion/schedulers), of which some are no others' under the name.
# The end `_k` of a name says Karras' levels, and all other names have none; but these have levels of their own.
_OTHERS_OF_INVOKEAI: Final[Mapping[str, str]] = {
    "deis": "DEIS",
    "ddpm": "DDPM",
    "pndm": "PNDM",
    "plms": "PLMS",
    "tcd": "TCD",
    "dpmpp_2s": "a second order without noise, one step at a time",
    "dpmpp_3m": "the third order without noise",
}
_OWN_LEVELS_OF_INVOKEAI: Final = frozenset({"ddim", "lcm"})
# Before 2.3 its samplers were k-diffusion's (backend/generate.py), with Karras' levels up to 29 steps (`--karras_max`).
_OF_K_DIFFUSION: Final = re.compile(r"v?(?:1|2\.[0-2])\b")
_KARRAS_STEPS: Final = 29
_OLDER_NAMES: Final = {"k_dpmpp_2": "dpmpp_2m", "k_dpmpp_2_a": "dpmpp_2s_ancestral"}
_COMPEL: Final = re.compile(r"\)(?:[+-]+|[\d.]+)|\w[+-]{2,}|\.(?:and|blend|swap)\(")
_PAIR: Final = re.compile(r"\(\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\)")
_TAG: Final = re.compile(r"<(segment|object|region|refiner|edit|clear)\b")


def parse_invokeai(data: Any) -> RawSettings:
    """Read `invokeai_metadata`, or the older `sd-metadata`.

    Raises:
        PublishedError: it is no object, the picture was made from another one, or its sampler is not done here.
    """
    if not isinstance(data, Mapping):
        raise PublishedError("InvokeAI's settings are not a JSON object")
    if isinstance(data.get("image"), Mapping):
        return _older_invokeai(data["image"], str(data.get("app_version") or "2"))
    if str(data.get("generation_mode", "txt2img")) not in {"txt2img", "sdxl_txt2img"}:
        raise PublishedError(f"it was made by {str(data['generation_mode'])[:40]}, and only txt2img is read")
    return RawSettings(
        program="InvokeAI",
        syntax="plain",
        prompt=data.get("positive_prompt"),
        negative=data.get("negative_prompt"),
        **_alike(data),
        cfg=data.get("cfg_scale"),
        **_sampling_of_invokeai(data.get("scheduler")),
        clip_skip=_clip_skip(data.get("clip_skip")),
        notes=tuple(_invokeai_notes(data)),
    )


def _sampling_of_invokeai(name: Any) -> dict[str, Any]:
    """Return the sampler and the schedule of a name.

    Raises:
        PublishedError: it is a sampler that only diffusers has.
    """
    if not isinstance(name, str):
        return {"sampler": name}
    sampler = name.removesuffix("_k")
    if sampler in _OTHERS_OF_INVOKEAI:
        raise PublishedError(f"InvokeAI's sampler {name} ({_OTHERS_OF_INVOKEAI[sampler]}) is not done here")
    if sampler == "unipc":
        sampler = "uni_pc_bh2"  # of its second order, where ComfyUI's has the third
    if sampler in _OWN_LEVELS_OF_INVOKEAI:
        return {"sampler": sampler}
    return {"sampler": sampler, "schedule": "karras" if name.endswith("_k") else "normal"}


def _alike(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that both programs call as we do."""
    return {name: data.get(name) for name in ("seed", "width", "height", "steps")}


def _clip_skip(skipped: Any) -> Any:
    """Return A1111's number for InvokeAI's, which counts the layers that are left out."""
    return skipped + 1 if isinstance(skipped, int) and not isinstance(skipped, bool) else skipped


def _invokeai_notes(data: Mapping[str, Any]) -> Iterator[str]:
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


def _older_invokeai(image: Mapping[str, Any], version: str) -> RawSettings:
    prompt = image.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("prompt")
    positive, negative = _brackets(str(prompt or ""))
    name, steps = image.get("sampler"), image.get("steps")
    sampling = _sampling_of_invokeai(_OLDER_NAMES.get(str(name), name))
    is_of_k_diffusion = version == "2" or _OF_K_DIFFUSION.match(version) is not None
    if is_of_k_diffusion and str(name).startswith("k_") and isinstance(steps, int):
        sampling["schedule"] = "karras" if steps <= _KARRAS_STEPS else "normal"
    return RawSettings(
        program="InvokeAI",
        syntax="plain",
        prompt=positive,
        negative=negative,
        **_alike(image),
        cfg=image.get("cfg_scale"),
        **sampling,
    )


def _brackets(prompt: str) -> tuple[str, str]:
    """Return the prompt, and the negative one, which stands in square brackets."""
    negative = re.findall(r"\[([^\[\]]*)\]", prompt)
    return re.sub(r"\[[^\[\]]*\]", "", prompt).strip(" ,"), ", ".join(negative)


def parse_swarmui(data: Any) -> RawSettings:
    """Read SwarmUI's `sui_image_params`.

    Raises:
        PublishedError: it is no object, or the picture was made from another one.
    """
    if not isinstance(data, Mapping):
        raise PublishedError("SwarmUI's settings are not a JSON object")
    if data.get("initimage") or data.get("initimagecreativity") is not None:
        raise PublishedError("it was made from another picture (initimage), which its settings do not hold")
    return RawSettings(
        program="SwarmUI",
        syntax="comfyui",
        noise="comfyui",
        prompt=data.get("prompt"),
        negative=data.get("negativeprompt"),
        **_alike(data),
        cfg=data.get("cfgscale"),
        sampler=data.get("sampler") or data.get("comfyuisampler") or "euler",
        schedule=data.get("scheduler") or data.get("comfyuischeduler") or "normal",
        clip_skip=_last_layer(data.get("clipstopatlayer")),
        notes=tuple(_swarmui_notes(data)),
    )


def _last_layer(layer: Any) -> Any:
    return -layer if isinstance(layer, int) and layer < 0 else None


def _swarmui_notes(data: Mapping[str, Any]) -> Iterator[str]:
    used = {
        "loras": "LoRAs (see `loras` of a suite)",
        "refinermodel": "the refiner",
        "refinerupscale": "upscaling by the refiner",
        "controlnetmodel": "ControlNet",
        "variationseed": "variation seeds",
    }
    found = [what for key, what in used.items() if data.get(key)]
    found += [f"<{tag}>" for tag in _TAG.findall(str(data.get("prompt", "")))]
    if found:
        yield f"not repeated: {', '.join(dict.fromkeys(found))}"


def parse_fooocus(data: Mapping[str, Any]) -> RawSettings:
    """Read the settings of Fooocus, which names each as its code does.

    The texts are those that were read, with what its styles and its expansion have added. Each was embedded by itself;
    they are joined as in its text of A1111's form.
    """
    size = _PAIR.fullmatch(str(data.get("resolution", "")))
    return RawSettings(
        program=FOOOCUS,
        syntax="comfyui",
        noise="comfyui",
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
        notes=tuple(notes_of_fooocus([*_ways_of_fooocus(data)])),
    )


def _joined(texts: Any) -> str:
    return ", ".join(map(str, texts)) if isinstance(texts, list) else ""


def _ways_of_fooocus(data: Mapping[str, Any]) -> Iterator[str]:
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
