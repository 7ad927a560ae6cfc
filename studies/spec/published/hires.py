"""The second pass of a published picture, as A1111's keys tell it, read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from studies.spec.hires import MOST_SCALE, HiresSettings, UpscalerName

STEP: Final = 32  # pixels; every size that some U-Net takes is a multiple of it
_EIGHTHS: Final = [count / 8 for count in range(8, int(MOST_SCALE) * 8 + 1)]
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
MOST_PIXELS: Final = 4096  # of a side
ALONE: Final = "the first pass alone is rendered"
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
    if not {"Hires upscale", "Hires resize"} & pairs.keys():
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


def second_pass(raw: RawHires, width: int, height: int) -> tuple[HiresSettings | None, tuple[str, ...]]:
    """Return a second pass that a suite can have, and what the user should know, one line each.

    Args:
        width, height: of the first pass, in pixels.

    Returns:
        None in place of a pass that cannot be had.
    """
    asked = _scale(raw, width, height)
    if asked is None:
        return None, (
            f"not repeated: hires fix to {raw.resize or raw.upscale}, which is no scale of its size: {ALONE}",
        )
    fitting = [each for each in _EIGHTHS if not any(int(side * each) % STEP for side in (width, height))]
    notes: tuple[str, ...] = ()
    scale = asked
    if any(int(side * asked) % STEP for side in (width, height)):
        scale = min(fitting, key=lambda each: abs(each - asked))
        notes = (f"hires fix at scale {asked:g} is rendered at {scale:g}: sizes are multiples of {STEP}",)
    given: dict[str, Any] = {"scale": scale, "denoise": raw.denoise, "upscaler": raw.upscaler}
    if raw.steps not in {None, "0"}:
        given["steps"] = raw.steps
    try:
        hires = HiresSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        what, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
        return None, (f"not repeated: hires fix, whose {what} cannot be had ({message}): {ALONE}",)
    if max(hires.size(width, height)) > MOST_PIXELS or not hires.is_on:
        return None, (f"not repeated: hires fix to {int(width * scale)}x{int(height * scale)}: {ALONE}",)
    return hires, notes


def _scale(raw: RawHires, width: int, height: int) -> float | None:
    """Return by what both sides are multiplied; None if that is no number, or another one for each side."""
    try:
        if raw.resize is None:
            return float(raw.upscale or "")
    except ValueError:
        return None
    found = _SIZE.fullmatch(raw.resize)
    if found is None:
        return None
    scales = {int(size) / side for size, side in zip(found.groups(), (width, height), strict=True) if int(size)}
    return scales.pop() if len(scales) == 1 else None
