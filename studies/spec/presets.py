"""How models of few steps are sampled, as those who trained them say.

Such a model, or its LoRA in the merge, was distilled for certain noise levels and without guidance. What programs other
than diffusers call a guidance of 1 is a `guidance_scale` of 0 on a model card: the prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

from studies.spec.sampler_names import read_sampler
from studies.spec.samplers import SamplerName, ScheduleName

PresetName = Literal[
    "turbo-1",
    "turbo-4",
    "lightning-2",
    "lightning-4",
    "lightning-8",
    "hyper-1",
    "hyper-2",
    "hyper-4",
    "hyper-8",
    "lcm-4",
    "lcm-8",
    "dmd2-4",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStepPreset:
    """Settings of a suite."""

    sampler: SamplerName
    schedule: ScheduleName
    steps: int
    cfg: float = 1.0


def _turbo(steps: int) -> FewStepPreset:
    """SDXL-Turbo: https://huggingface.co/stabilityai/sdxl-turbo, scheduler/scheduler_config.json.

    EulerAncestralDiscreteScheduler with trailing spacing, 1 to 4 steps, `guidance_scale=0.0`. SD-Turbo has none here:
    it is a Stable Diffusion 2.1.
    """
    return FewStepPreset(sampler="euler_ancestral", schedule="turbo", steps=steps)


def _lightning(steps: int) -> FewStepPreset:
    """SDXL-Lightning: https://huggingface.co/ByteDance/SDXL-Lightning, "ComfyUI Usage".

    "Please use Euler sampler with sgm_uniform scheduler", with the steps of the file and CFG off.
    """
    return FewStepPreset(sampler="euler", schedule="sgm_uniform", steps=steps)


def _hyper(steps: int) -> FewStepPreset:
    """Hyper-SD and Hyper-SDXL: https://huggingface.co/ByteDance/Hyper-SD, "2-Steps, 4-Steps, 8-steps LoRA".

    DDIMScheduler with trailing spacing and `guidance_scale=0`; with DDIM's eta of 0 its steps are Euler's. The LoRA of
    one step has TCDScheduler there, whose single step leads to the predicted image as Euler's does; in several steps
    TCD is another sampler, which is not here. The U-Net of one step begins at time 800 and has no preset.
    """
    return FewStepPreset(sampler="euler", schedule="turbo", steps=steps)


def _lcm(steps: int) -> FewStepPreset:
    """LCM-LoRA: https://huggingface.co/latent-consistency/lcm-lora-sdxl and lcm-lora-sdv1-5.

    LCMScheduler, 2 to 8 steps (4 in the example), `guidance_scale` 0 or 1 to 2. Its times are those of every k-th of 50
    levels, and it mixes clean with noisy latents by the time: A1111's LCM with the levels of `simple`.
    """
    return FewStepPreset(sampler="lcm_a1111", schedule="simple", steps=steps)


PRESETS: Final[Mapping[PresetName, FewStepPreset]] = {
    "turbo-1": _turbo(1),
    "turbo-4": _turbo(4),
    "lightning-2": _lightning(2),
    "lightning-4": _lightning(4),
    "lightning-8": _lightning(8),
    "hyper-1": _hyper(1),
    "hyper-2": _hyper(2),
    "hyper-4": _hyper(4),
    "hyper-8": _hyper(8),
    "lcm-4": _lcm(4),
    "lcm-8": _lcm(8),
    # https://huggingface.co/tianweiy/DMD2: LCMScheduler with `timesteps=[999, 749, 499, 249]`, "different from the
    # default", and `guidance_scale=0`. Those are trailing times of the model's 1000, which ComfyUI's LCM has.
    "dmd2-4": FewStepPreset(sampler="lcm_comfyui", schedule="turbo", steps=4),
}


def read_preset(value: Any) -> Any:
    """Return the preset of a name however its capitals, spaces and dashes are written; what is no text stays.

    Raises:
        ValueError: nothing is called so; the message has the names that are close.
    """
    if not isinstance(value, str):
        return value
    known = {_letters(name): name for name in get_args(PresetName)}
    if _letters(value) in known:
        return known[_letters(value)]
    close = [known[each] for each in get_close_matches(_letters(value), known)]
    advice = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(PRESETS)}"
    msg = f"there is no preset {value[:60]!r}: {advice}"
    raise ValueError(msg)


def with_preset(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings of a suite with those of its preset that are not written beside it.

    A joint name of a sampler ("DPM++ SDE Karras") says the schedule, too. A preset that does not exist is left to the
    settings' own validation.
    """
    try:
        preset = PRESETS[read_preset(settings.get("preset"))]
    except (KeyError, TypeError, ValueError):
        return settings
    values = asdict(preset)
    if _says_schedule(settings.get("sampler")):
        del values["schedule"]
    return {**values, **settings}


def _says_schedule(sampler: Any) -> bool:
    try:
        return read_sampler(sampler)[1] is not None
    except (TypeError, ValueError):
        return False


def _letters(text: str) -> str:
    return "".join(each for each in text.casefold() if each.isalnum())
