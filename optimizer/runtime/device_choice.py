"""Which device a study computes on, and in which dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from optimizer.errors import RenderError
from optimizer.merging.engine.ingredients import EXPORT_DTYPES, Ingredients
from optimizer.merging.files.layout import Component, live_views
from optimizer.rendering.models import live_dtypes
from optimizer.system.devices import fault_of, remedy_of, usual_device
from studies.recipe.recipe import DtypeName
from studies.spec.rendering import RenderSettings


def choose_device(name: str) -> torch.device:
    """Choose the device that a spec asks for: `auto` is a working CUDA device, else Apple's, else the CPU.

    Raises:
        RenderError: the device is missing or cannot compute.
    """
    if name == "auto":
        return usual_device()
    reason = fault_of(name)
    if reason is not None:
        raise RenderError(f"device {name!r} cannot be used ({reason}): {remedy_of(reason)}")
    return torch.device(name)


def require_device_name(name: str) -> None:
    """Refuse a device that no machine has; whether this one has it is not asked.

    Raises:
        RenderError: torch knows no such name, or no number is computed on such a device.
    """
    if name == "auto":
        return
    try:
        computes = torch.device(name).type != "meta"
    except RuntimeError:
        computes = False
    if not computes:
        raise RenderError(f"no machine has a device {name!r}: write auto, cpu or cuda")


def render_dtype(settings: RenderSettings, device: torch.device, saved: torch.dtype = torch.float16) -> torch.dtype:
    """Return the dtype in which the U-Net and the text encoders compute.

    Args:
        saved: the dtype in which most of the merge's U-Net is saved. `auto` renders bfloat16 in bfloat16 on a card
            that supports it, because it holds numbers that float16 cannot. An exported file leads to the same choice.

    Raises:
        RenderError: the spec asks a CPU for a dtype other than float32, or sums in fp16 what is not in fp16 on a card.
    """
    dtype = _render_dtype(settings, device, saved)
    if settings.fp16_accumulation and (device.type != "cuda" or dtype != torch.float16):
        raise RenderError(
            f"fp16_accumulation is for models in fp16 on a CUDA card, this one is rendered in {_short(dtype)} on "
            f"{device.type}: leave it out"
        )
    return dtype


def _short(dtype: torch.dtype) -> str:
    return next(name for name, each in EXPORT_DTYPES.items() if each == dtype)


def _render_dtype(settings: RenderSettings, device: torch.device, saved: torch.dtype) -> torch.dtype:
    if settings.dtype == "auto":
        half = torch.bfloat16 if saved == torch.bfloat16 and _has_bfloat16(device) else torch.float16
        return torch.float32 if device.type == "cpu" else half
    if device.type == "cpu" and settings.dtype != "fp32":
        raise RenderError(f"a CPU renders in fp32, the spec asks for {settings.dtype}: write `dtype: auto`")
    return EXPORT_DTYPES[settings.dtype]


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether the card computes in bfloat16: Ampere and later do, older cards emulate it slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def component_dtypes(
    ingredients: Ingredients, settings: RenderSettings, device: torch.device, export_dtype: DtypeName | None
) -> Mapping[Component, torch.dtype]:
    """Return the dtype in which each component of a merge computes."""
    architecture, elements = ingredients.parents.architecture, Counter[torch.dtype]()
    for key, info in ingredients.tensors.items():
        if any(view.component == "unet" for view in live_views(key, architecture, len(info.shape))):
            elements[ingredients.saved_dtype(key, export_dtype)] += info.size
    most_used = max(elements, key=lambda dtype: elements[dtype], default=torch.float16)
    return live_dtypes(device, render_dtype(settings, device, most_used))
