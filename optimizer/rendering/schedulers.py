"""Schedulers by the names people know, with Stable Diffusion's noise schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from studies.spec import SchedulerName

# The schedule both SD1.5 and SDXL were trained with.
TRAINED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
LEADING = {"timestep_spacing": "leading"}

SCHEDULERS: Mapping[SchedulerName, Callable[..., Any]] = {
    "ddim": partial(DDIMScheduler, clip_sample=False, set_alpha_to_one=False, **LEADING),
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "dpmpp_2m_karras": partial(DPMSolverMultistepScheduler, use_karras_sigmas=True),
    "dpmpp_2m_sde_karras": partial(
        DPMSolverMultistepScheduler, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++"
    ),
    "euler": partial(EulerDiscreteScheduler, **LEADING),
    "euler_a": partial(EulerAncestralDiscreteScheduler, **LEADING),
    "heun": partial(HeunDiscreteScheduler, **LEADING),
    "lcm": partial(LCMScheduler, clip_sample=False, set_alpha_to_one=False),
    "unipc": UniPCMultistepScheduler,
}


def make_scheduler(name: SchedulerName) -> Any:
    """A new diffusers scheduler."""
    return SCHEDULERS[name](**TRAINED)
