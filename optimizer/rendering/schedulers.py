"""Schedulers by their usual names, on the noise schedule with which a model was trained.

Models that predict v work with every scheduler. Zero terminal SNR needs a rescaled schedule, and sampling from the last
training step on (trailing spacing): Lin et al., arXiv:2305.08891, section 3. Their guidance rescale is not used:
A1111, Forge and ComfyUI render such models without it by default, and images should be those that their users see.

EDM models have schedulers of their own. Names without `karras` space the noise levels evenly in the number that the
model gets, log(sigma) / 4 (diffusers calls that exponential). stabilityai/cosxl is configured that way, and it matches
what the names mean for other models: even steps of the model's own time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from optimizer.errors import RenderError
from optimizer.families.stable_diffusion import NOISE_SCHEDULE
from optimizer.rendering.prediction import EPSILON, EdmRange, Prediction
from studies.spec.suite import SchedulerName

TRAINED = {**NOISE_SCHEDULE, "steps_offset": 1}
LEADING = {"timestep_spacing": "leading"}


class DPMSolver(DPMSolverMultistepScheduler):  # type: ignore[misc]  # diffusers has no types
    """DPM-Solver that begins at its first noise level.

    diffusers looks the first level up by its timestep and takes the second level of that timestep, which is meant for
    images to begin with. Karras' levels of a schedule with zero terminal SNR are so dense at the top that several have
    the last timestep: the first would be left out, and the last step would read beyond the table.
    """

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the levels and timesteps; arguments are those of diffusers."""
        super().set_timesteps(*args, **kwargs)
        self.set_begin_index(0)


SCHEDULERS: Mapping[SchedulerName, Callable[..., Any]] = {
    "ddim": partial(DDIMScheduler, clip_sample=False, set_alpha_to_one=False, **LEADING),
    "dpmpp_2m": DPMSolver,
    "dpmpp_2m_karras": partial(DPMSolver, use_karras_sigmas=True),
    "dpmpp_2m_sde_karras": partial(DPMSolver, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++"),
    "euler": partial(EulerDiscreteScheduler, **LEADING),
    "euler_a": partial(EulerAncestralDiscreteScheduler, **LEADING),
    "heun": partial(HeunDiscreteScheduler, **LEADING),
    "lcm": partial(LCMScheduler, clip_sample=False, set_alpha_to_one=False),
    "unipc": UniPCMultistepScheduler,
}


NO_ZERO_SNR: frozenset[SchedulerName] = frozenset({"heun"})  # diffusers offers no rescaled schedule for it
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

EXPONENTIAL, KARRAS = {"sigma_schedule": "exponential"}, {"sigma_schedule": "karras"}
EDM_SCHEDULERS: Mapping[SchedulerName, Callable[..., Any]] = {
    "dpmpp_2m": partial(EDMDPMSolverMultistepScheduler, **EXPONENTIAL),
    "dpmpp_2m_karras": partial(EDMDPMSolverMultistepScheduler, **KARRAS),
    "dpmpp_2m_sde_karras": partial(EDMDPMSolverMultistepScheduler, **KARRAS, algorithm_type="sde-dpmsolver++"),
    "euler": partial(EDMEulerScheduler, **EXPONENTIAL),
}


def make_scheduler(name: SchedulerName, prediction: Prediction = EPSILON) -> Any:
    """Create a diffusers scheduler.

    Raises:
        RenderError: it cannot render models with this prediction; the message names those that can.
    """
    predicts = {"prediction_type": "v_prediction" if prediction.kind == "v" else "epsilon"}
    if prediction.edm is not None:
        return _edm_scheduler(name, prediction.edm, predicts)
    if not prediction.zero_snr:
        return SCHEDULERS[name](**TRAINED, **predicts)
    if name in NO_ZERO_SNR:
        usable = [other for other in SCHEDULERS if other not in NO_ZERO_SNR]
        raise RenderError(
            f"scheduler {name} cannot render a model with zero terminal SNR: use one of {', '.join(usable)}"
        )
    return SCHEDULERS[name](**TRAINED, **predicts, **ZERO_SNR)


def _edm_scheduler(name: SchedulerName, edm: EdmRange, predicts: Mapping[str, str]) -> Any:
    if name not in EDM_SCHEDULERS:
        raise RenderError(f"scheduler {name} cannot render an EDM model: use one of {', '.join(EDM_SCHEDULERS)}")
    return EDM_SCHEDULERS[name](sigma_min=edm.sigma_min, sigma_max=edm.sigma_max, sigma_data=edm.sigma_data, **predicts)


# ------------------------------------------------------------------------------------------ steps


def require_steps(name: SchedulerName, steps: int, prediction: Prediction) -> None:
    """Refuse a number of steps with which the scheduler fails somewhere on its way.

    Raises:
        RenderError: it does; the message says how many steps are possible.
    """
    if not _arrives(name, steps, prediction):
        raise RenderError(
            f"scheduler {name} cannot take {steps} steps with a model that predicts {prediction.description}: use 1 to "
            f"{_most_steps(name, steps, prediction)}, or another scheduler"
        )


@cache
def _arrives(name: SchedulerName, steps: int, prediction: Prediction) -> bool:
    """Walk all steps with a latent of one number, and return whether they end in a number.

    Schedulers check little themselves: some take a number of steps, and then read beyond a table or divide by zero.
    """
    scheduler, generator = make_scheduler(name, prediction), torch.Generator("cpu").manual_seed(0)
    # Without a generator of its own, a step that adds noise would draw from torch's global one.
    noise = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    try:
        scheduler.set_timesteps(steps)
        latent = torch.ones(1, 1, 1, 1) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            output = scheduler.scale_model_input(latent, timestep) / 2
            latent = scheduler.step(output, timestep, latent, **noise, return_dict=False)[0]
    except (ValueError, IndexError):  # the first is LCM's, which was distilled for at most 50
        return False
    return bool(latent.isfinite().all())


def _most_steps(name: SchedulerName, failing: int, prediction: Prediction) -> int:
    """Return the largest number of steps below a failing one that the scheduler takes: what fails, fails from there on.

    It is either right below the failing one or far away, so the distance is doubled until one is taken.
    """
    low, high, distance = failing - 1, failing, 1
    while low > 1 and not _arrives(name, low, prediction):
        high, distance = low, 2 * distance
        low = max(1, low - distance)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _arrives(name, middle, prediction) else (low, middle)
    return low
