"""The second pass of a published picture, as A1111's keys tell it, read and written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from studies.spec.hires import HiresSettings, UpscalerName, why_impossible

_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
# A1111's names of upscalers, which are read in any spelling.
_NAMES: Final[Mapping[UpscalerName, str]] = {
    "latent": "Latent",
    "latent_antialiased": "Latent (antialiased)",
    "latent_bicubic": "Latent (bicubic)",
    "latent_bicubic_antialiased": "Latent (bicubic antialiased)",
    "latent_nearest": "Latent (nearest)",
    "latent_nearest_exact": "Latent (nearest-exact)",
    "lanczos": "Lanczos",
    "nearest": "Nearest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawHires:
    """A second pass as a text tells it: None where it says nothing."""

    upscale: str | None  # by which the sides are multiplied
    resize: str | None  # or the sides themselves, 0 for one that follows from the other
    steps: str | None
    denoise: str | None
    upscaler: str


def raw_hires(pairs: Mapping[str, str]) -> RawHires | None:
    """Return what a line of settings says about a second pass; None if there is none."""
    if not {"Hires upscale", "Hires resize", "Hires steps", "Hires upscaler"} & pairs.keys():
        return None
    return RawHires(
        upscale=pairs.get("Hires upscale"),
        resize=pairs.get("Hires resize"),
        steps=pairs.get("Hires steps"),
        denoise=pairs.get("Denoising strength"),
        upscaler=pairs.get("Hires upscaler", "Latent"),
    )


def said_of_hires(hires: HiresSettings) -> dict[str, object]:
    """Return a second pass by A1111's names."""
    if not hires.is_on:
        return {}
    return {
        "Denoising strength": hires.denoise,
        "Hires upscale": hires.scale,
        "Hires steps": hires.steps,
        "Hires upscaler": _NAMES[hires.upscaler],
    }


def second_pass(
    raw: RawHires, width: int, height: int, *, rendered: tuple[int, int], first_steps: int
) -> tuple[HiresSettings | None, str | None]:
    """Return a second pass that a suite can have, or None; and why not.

    Args:
        width, height: of the first pass as the picture has it, in pixels.
        rendered: the size in its place in a suite.
        first_steps: of the first pass.
    """
    scale = _scale(raw, width, height)
    if scale is None:
        return None, _alone(f"its size {raw.resize or raw.upscale or 'is not named, which'} is no scale of the first's")
    if raw.denoise is None:
        return None, _alone("it names no `Denoising strength`")
    given: dict[str, Any] = {"scale": scale, "denoise": raw.denoise, "upscaler": raw.upscaler}
    if raw.steps not in {None, "0"}:
        given["steps"] = raw.steps
    try:
        hires = HiresSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        what, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
        return None, _alone(f"`{what}`: {message[:1].lower()}{message[1:]}")
    if not hires.is_on:
        return None, _alone("its denoising strength is 0")
    impossible = why_impossible(hires, *rendered, first_steps)
    return (hires, None) if impossible is None else (None, _alone(impossible))


def _alone(why: str) -> str:
    return f"not repeated: hires fix ({why}): the first pass alone is rendered"


def _scale(raw: RawHires, width: int, height: int) -> float | None:
    """Return by what both sides are multiplied; None if that is no number, or another one for each side."""
    try:
        if raw.resize is None:
            scale = float(raw.upscale or "nan")
            return scale if math.isfinite(scale) else None
    except ValueError:
        return None
    found = _SIZE.fullmatch(raw.resize)
    if found is None:
        return None
    scales = {int(size) / side for size, side in zip(found.groups(), (width, height), strict=True) if int(size)}
    return scales.pop() if len(scales) == 1 else None
