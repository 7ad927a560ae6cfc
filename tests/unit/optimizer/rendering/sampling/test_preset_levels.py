"""The noise levels of presets against the schedulers of diffusers that model cards name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler
from diffusers_pipelines import TRAINED_NOISE
from torch import Tensor

from optimizer.rendering.prediction import EPSILON
from optimizer.rendering.sampling.levels import Levels
from optimizer.rendering.sampling.methods import METHODS, sampling_levels, sigmas_of
from search_spaces.blocks import Architecture
from studies.spec.presets import PRESETS
from studies.spec.suite import SuiteSettings

TRAILING: Any = {**TRAINED_NOISE, "timestep_spacing": "trailing", "steps_offset": 1}
MADE: dict[str, Callable[[], Any]] = {
    "turbo": lambda: EulerAncestralDiscreteScheduler(**TRAILING),
    "lightning": lambda: EulerDiscreteScheduler(**TRAILING),
    "hyper": lambda: DDIMScheduler(**TRAILING, clip_sample=False),
    "lcm": lambda: LCMScheduler(**TRAINED_NOISE),
}


def levels_and_sigmas(name: str) -> tuple[Levels, tuple[float, ...]]:
    (item,) = SuiteSettings.model_validate({"prompts": ["a cat"], "preset": name}).items()
    levels = sampling_levels(item.sampling, EPSILON)
    return levels, sigmas_of(item.sampling, levels, Architecture.SDXL, "a1111")


def published_times(name: str) -> list[float]:
    kind, steps = name.split("-")
    if kind == "dmd2":
        return [999, 749, 499, 249]  # of its model card
    scheduler = MADE[kind]()
    scheduler.set_timesteps(int(steps))
    return [float(time) for time in scheduler.timesteps]


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_unet_is_called_at_the_published_times(name: str) -> None:
    levels, sigmas = levels_and_sigmas(name)
    found = [levels.time(sigma) for sigma in sigmas[:-1]]
    apart = 1.0 if name.startswith("lightning") else 0.01  # its card says both "trailing" and sgm_uniform
    assert found == pytest.approx(published_times(name), abs=apart)
    assert sigmas[-1] == 0


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_steps_of_hyper_are_those_of_ddim(steps: int) -> None:
    """Against diffusers' own steps, with noise that depends on latents and time."""

    def noise_of(unit: Tensor, time: float) -> Tensor:
        return (unit * (1 + time / 1000)).tanh()

    levels, sigmas = levels_and_sigmas(f"hyper-{steps}")
    begin = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DDIMScheduler(**TRAILING, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    expected = begin
    for time in scheduler.timesteps:
        expected = scheduler.step(noise_of(expected, float(time)), time, expected).prev_sample

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return levels.denoised(x, noise_of(levels.scaled(x, sigma), levels.time(sigma)), sigma)

    sampler = METHODS[PRESETS[f"hyper-{steps}"].sampler].sample  # type: ignore[index]
    found = sampler(denoise, begin * (sigmas[0] ** 2 + 1) ** 0.5, sigmas, lambda *_: torch.zeros(()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
