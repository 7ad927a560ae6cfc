"""The noise levels of a second pass, which begins at a lower level than the first, from latents that are not noise.

    a1111      steps / denoise steps, of which the last `steps` are made (modules/sd_samplers_common.py,
               setup_img2img_steps, and sample_img2img of each kind of sampler)
    comfyui    the same, counted from the end (comfy/samplers.py, KSampler.set_steps)

Where a schedule has as many levels as steps, the two are one. A1111's DDIM and UniPC noise the latents to one level
more than the highest at which they call the model, and make a step or none less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor

from optimizer.rendering.prediction import Prediction
from optimizer.rendering.sampling.levels import Flow, Levels
from optimizer.rendering.sampling.methods import calls_of, calls_through, sampling_levels, sigmas_of
from optimizer.rendering.sampling.schedules import even_in_time, timesteps_of_a1111
from search_spaces.blocks import Architecture
from studies.spec.samplers import SAMPLER_INFOS, ProgramName, Sampling

MOST_OF_A1111 = 0.999  # the highest denoising strength that it counts with
WHOLE_OF_COMFYUI = 0.9999  # above which ComfyUI makes all steps


@dataclass(frozen=True, kw_only=True)
class SecondLevels:
    """The levels of a second pass."""

    start: float  # to which latents are noised
    sigmas: tuple[float, ...]  # through which the sampler passes
    path: tuple[float, ...]  # the highest and the lowest are the ends of Brownian paths


def second_levels(sampling: Sampling, levels: Levels, architecture: Architecture, program: ProgramName) -> SecondLevels:
    """Return the levels of an item's second pass, as the program has them.

    Args:
        sampling: of the item, with both passes.

    Raises:
        ValueError: it has one pass only.
    """
    second = sampling.second
    if second is None:
        msg = "the image is sampled once"
        raise ValueError(msg)
    if isinstance(levels, Flow):
        program = "comfyui"
    steps, total = second.steps, all_steps(second.steps, sampling.hires.denoise, program)
    if SAMPLER_INFOS[second.sampler].of_times:
        return _by_timesteps(second, levels, architecture, program, total)
    whole = sigmas_of(replace(second, steps=total), levels, architecture, program)
    if program == "comfyui":
        sigmas = whole if total == steps else whole[-(steps + 1) :]
        return SecondLevels(start=sigmas[0], sigmas=sigmas, path=sigmas)
    sigmas = whole[total - steps :]  # none, where the schedule has not as many levels
    return SecondLevels(start=sigmas[0] if sigmas else 0.0, sigmas=sigmas, path=whole)


@cache
def second_calls_of(sampling: Sampling, prediction: Prediction, program: ProgramName) -> int:
    """Return how often a sampler calls the denoiser in the second pass of an image.

    Raises:
        ValueError: it has one pass only.
    """
    family = Architecture.SD15  # the published levels of every family are equally many
    found = second_levels(sampling, sampling_levels(sampling, prediction), family, program)
    return calls_through(found.sigmas, sampling.sampler)


def calls_of_passes(sampling: Sampling, prediction: Prediction, program: ProgramName) -> tuple[int, ...]:
    """Return how often a sampler calls the denoiser for an image, in its one pass or in each of two."""
    first = calls_of(sampling, prediction, program)
    return (first,) if sampling.second is None else (first, second_calls_of(sampling, prediction, program))


def all_steps(steps: int, denoise: float, program: ProgramName) -> int:
    """Return how many steps there are, of which the second pass makes the last."""
    if program == "comfyui":
        return steps if denoise > WHOLE_OF_COMFYUI else int(steps / denoise)
    return int(steps / min(denoise, MOST_OF_A1111))


def _by_timesteps(
    second: Sampling, levels: Levels, architecture: Architecture, program: ProgramName, total: int
) -> SecondLevels:
    """Return the levels of A1111's DDIM and UniPC, whose last `steps` - 1 times they take."""
    places = timesteps_of_a1111(levels, total)
    begin = max(len(places) - (second.steps - 1), 1)
    start = float(levels.sigmas[places[begin - 1]])
    if second.schedule != "time_uniform":  # DDIM passes through levels of the table
        sigmas = sigmas_of(replace(second, steps=total), levels, architecture, program)[begin:]
    elif begin < len(places):
        sigmas = tuple(even_in_time(levels, places[begin], second.steps - 1).tolist())
    else:
        sigmas = ()
    return SecondLevels(start=start, sigmas=sigmas, path=sigmas)


def noised(latents: Tensor, noise: Tensor, found: SecondLevels, levels: Levels, program: ProgramName) -> Tensor:
    """Return latents [n, c, h, w] with noise of the same shape, as the sampler of a second pass takes them."""
    if isinstance(levels, Flow):
        return found.start * noise + (1 - found.start) * latents
    x = latents + scale_of_noise(found.start, levels, program) * noise
    if found.sigmas[0] == found.start:
        return x
    # Scaled to variance 1 by the level that they have, and from variance 1 by the one at which they are read.
    return x * math.sqrt((found.sigmas[0] ** 2 + 1) / (found.start**2 + 1))


def scale_of_noise(sigma: float, levels: Levels, program: ProgramName) -> float:
    """Return the factor of the noise with which a pass begins at a level: the level itself.

    At the model's highest level ComfyUI takes sqrt(sigma**2 + 1), the deviation of noisy latents in training.
    """
    highest = float(levels.sigmas[-1])
    at_highest = sigma > highest or math.isclose(sigma, highest, rel_tol=1e-5)
    return math.sqrt(sigma**2 + 1) if program == "comfyui" and at_highest else sigma
