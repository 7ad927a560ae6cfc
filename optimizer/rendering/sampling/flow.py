"""Samplers of models that follow a flow, as ComfyUI has them (comfy/k_diffusion/sampling.py, branches for CONST).

Notation: x = (1 - s) x0 + s n with a level s from 1 down to 0; D(x, s) is the denoiser. The probability flow is
dx / ds = (x - D) / s as in samplers.py, and so are the samplers that only follow it. Those that add noise differ,
because the share of the image has to be 1 - s' at the next level s':

- Ancestral ones step down to s'' = s'**2 / s, and mix x' = r x'' + u n with r = (1 - s') / (1 - s'') and
  u**2 = s'**2 - (r s'')**2.
- SDE-DPM-Solver++ is that of samplers.py in z = x / (1 - s) = x0 + S n with S = s / (1 - s): lambda = -log(S) is half
  the logarithm of the signal-to-noise ratio in both. Level 1 has no S, so they begin a little below.

Every sampler has the call shape that samplers.py describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from optimizer.errors import RenderError
from optimizer.rendering.sampling.levels import LEVELS
from optimizer.rendering.sampling.noise import Noise
from optimizer.rendering.sampling.samplers import Denoise, Sampler, exponential_step, sample_dpm_2
from studies.spec.samplers import FLOW_SAMPLERS, FLOW_SCHEDULES, Sampling
from studies.spec.suite import SuiteSettings

BEGIN_TIME: Final = (1 - 1e-4) * LEVELS  # where SDE samplers begin in place of level 1
MIDDLE_BELOW_1: Final = 0.9999  # the level in the middle of a step of DPM++ 2S from level 1


def check_flow_sampling(sampling: Sampling, suite: SuiteSettings) -> None:
    """Refuse settings that have no meaning for a model that follows a flow.

    Raises:
        RenderError: the sampler or the schedule is not defined for one, or first noise or guidance is to be rescaled.
    """
    for kind, name, defined in (
        ("sampler", sampling.sampler, FLOW_SAMPLERS),
        ("schedule", sampling.schedule, FLOW_SCHEDULES),
    ):
        if name not in defined:
            raise RenderError(
                f"the {kind} {name} is not defined for a model that follows a flow: use {', '.join(defined[:-1])} or "
                f"{defined[-1]}"
            )
    if suite.sgm_noise_multiplier:
        raise RenderError("`sgm_noise_multiplier` does not apply to a model that follows a flow: leave it out")
    if sampling.is_guided and sampling.cfg_rescale:  # versions of ComfyUI rescale different things here
        raise RenderError("`cfg_rescale` is not defined for a model that follows a flow: leave it out")


# ------------------------------------------------------------------------------------------ ancestral


def sample_euler_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take Euler steps below each level, and mix in noise up to it."""
    for here, there in pairwise(sigmas):
        down, kept, up = _ancestral(here, there)
        x = _with_noise(exponential_step(x, denoise(x, here), here, down), kept, up, noise, here, there)
    return x


def sample_dpm_2_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take DPM-Solver-2 steps below each level, and mix in noise up to it."""
    for here, there in pairwise(sigmas):
        down, kept, up = _ancestral(here, there)
        x = _with_noise(sample_dpm_2(denoise, x, (here, down), noise), kept, up, noise, here, there)
    return x


def sample_dpmpp_2s_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take DPM-Solver++(2S) steps with the middle in lambda below each level, and mix in noise up to it."""
    for here, there in pairwise(sigmas):
        down, kept, up = _ancestral(here, there)
        denoised = denoise(x, here)
        if there > 0:
            middle = _middle(here, down)
            denoised = denoise(exponential_step(x, denoised, here, middle), middle)
        x = _with_noise(exponential_step(x, denoised, here, down), kept, up, noise, here, there)
    return x


def sample_lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Denoise, and mix in noise of the next level."""
    for here, there in pairwise(sigmas):
        x = _with_noise(denoise(x, here), 1 - there, there, noise, here, there)
    return x


def _ancestral(here: float, there: float) -> tuple[float, float, float]:
    """Return the level to step down to, and the shares of latents and noise that lead up from it to `there`."""
    down = there * (there / here)
    kept = (1 - there) / (1 - down)
    return down, kept, math.sqrt(max(there**2 - (kept * down) ** 2, 0))


def _with_noise(x: Tensor, kept: float, scale: float, noise: Noise, here: float, there: float) -> Tensor:
    """Mix in noise for the step between two levels; none is drawn for a step to 0."""
    return kept * x + noise(here, there) * scale if there > 0 else x


def _middle(here: float, there: float) -> float:
    if here == 1:
        return MIDDLE_BELOW_1
    return _level(math.sqrt(_ratio(here) * _ratio(there)))


# ------------------------------------------------------------------------------------------ SDE-DPM-Solver++


def sample_in_ratio(
    sampler: Sampler, denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, begin: float
) -> Tensor:
    """Sample z = x / (1 - s) over the levels S = s / (1 - s).

    Args:
        sampler: one that ends with the denoised latents.
        begin: the level that takes the place of level 1; the latents stay as they are.
    """
    first, *others = sigmas
    first = begin if first >= 1 else first

    def denoise_ratio(z: Tensor, ratio: float) -> Tensor:
        level = _float32_level(ratio)
        return denoise((1 - level) * z, level)

    def noise_of_ratio(high: float, low: float) -> Tensor:
        return noise(_float32_level(high), _float32_level(low))

    ratios = [_ratio(level) for level in (first, *others)]
    return sampler(denoise_ratio, x / (1 - first), ratios, noise_of_ratio)


def middle_ratio(here: float, there: float) -> float:
    """Return the ratio in the middle of lambda, from float32 as ComfyUI: a Brownian path shows a level's last bits."""
    start, end = (-torch.tensor(_float32_level(ratio)).logit() for ratio in (here, there))
    return _ratio(float((-(start + (end - start) * 0.5)).sigmoid()))


def _ratio(level: float) -> float:
    return level / (1 - level)


def _level(ratio: float) -> float:
    return ratio / (1 + ratio)


def _float32_level(ratio: float) -> float:
    """Return the level of a ratio that was made from a level in float32."""
    return float(torch.tensor(_level(ratio), dtype=torch.float32))
