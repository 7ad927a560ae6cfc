"""The settings of SwarmUI: a JSON object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import PublishedError, RawSettings, named_as_ours

_TAG: Final = re.compile(r"<(segment|object|region|refiner|edit|clear)\b")


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
        made_by="SwarmUI",
        syntax="comfyui",
        program="comfyui",
        prompt=data.get("prompt"),
        negative=data.get("negativeprompt"),
        **named_as_ours(data),
        cfg=data.get("cfgscale"),
        sampler=data.get("sampler") or data.get("comfyuisampler") or "euler",
        schedule=data.get("scheduler") or data.get("comfyuischeduler") or "normal",
        clip_skip=_last_layer(data.get("clipstopatlayer")),
        notes=tuple(_notes(data)),
    )


def _last_layer(layer: Any) -> Any:
    return -layer if isinstance(layer, int) and layer < 0 else None


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
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
