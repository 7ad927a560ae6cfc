"""The settings of InvokeAI and SwarmUI, each a JSON object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import PublishedError, RawSettings

_COMPEL: Final = re.compile(r"\)(?:[+-]+|[\d.]+)|\w[+-]{2,}|\.(?:and|blend|swap)\(")
_TAG: Final = re.compile(r"<(segment|object|region|refiner|edit|clear)\b")


def parse_invokeai(data: Any) -> RawSettings:
    """Read `invokeai_metadata`, or the older `sd-metadata`.

    Raises:
        PublishedError: it is no object, or the picture was made from another one.
    """
    if not isinstance(data, Mapping):
        raise PublishedError("InvokeAI's settings are not a JSON object")
    if isinstance(data.get("image"), Mapping):
        return _older_invokeai(data["image"])
    if str(data.get("generation_mode", "txt2img")) not in {"txt2img", "sdxl_txt2img"}:
        raise PublishedError(f"it was made by {str(data['generation_mode'])[:40]}, and only txt2img is read")
    return RawSettings(
        program="InvokeAI",
        syntax="plain",
        prompt=data.get("positive_prompt"),
        negative=data.get("negative_prompt"),
        **_alike(data),
        cfg=data.get("cfg_scale"),
        sampler=data.get("scheduler"),
        clip_skip=_clip_skip(data.get("clip_skip")),
        notes=tuple(_invokeai_notes(data)),
    )


def _alike(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that both programs call as we do."""
    return {name: data.get(name) for name in ("seed", "width", "height", "steps")}


def _clip_skip(skipped: Any) -> Any:
    """Return A1111's number for InvokeAI's, which counts the layers that are left out."""
    return skipped + 1 if isinstance(skipped, int) and not isinstance(skipped, bool) else skipped


def _invokeai_notes(data: Mapping[str, Any]) -> Iterator[str]:
    used = {
        "loras": "LoRAs (see `loras` of a spec)",
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


def _older_invokeai(image: Mapping[str, Any]) -> RawSettings:
    prompt = image.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("prompt")
    positive, negative = _brackets(str(prompt or ""))
    return RawSettings(
        program="InvokeAI",
        syntax="plain",
        prompt=positive,
        negative=negative,
        **_alike(image),
        cfg=image.get("cfg_scale"),
        sampler=image.get("sampler"),
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
        "loras": "LoRAs (see `loras` of a spec)",
        "refinermodel": "the refiner",
        "refinerupscale": "upscaling by the refiner",
        "controlnetmodel": "ControlNet",
        "variationseed": "variation seeds",
    }
    found = [what for key, what in used.items() if data.get(key)]
    found += [f"<{tag}>" for tag in _TAG.findall(str(data.get("prompt", "")))]
    if found:
        yield f"not repeated: {', '.join(dict.fromkeys(found))}"
