"""From the items of a batch to their latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from optimizer.errors import RenderError
from optimizer.families.registry import model_family
from optimizer.rendering.models import LiveModels
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.encoder import Conditions
from optimizer.rendering.sampling.denoiser import ConsistencyDenoiser, GuidedDenoiser
from optimizer.rendering.sampling.flow import check_flow_sampling
from optimizer.rendering.sampling.levels import Flow, Levels
from optimizer.rendering.sampling.methods import METHODS, sampler_of, sampling_levels, sigmas_of
from optimizer.rendering.sampling.noise import BatchNoise, Increments
from optimizer.rendering.sampling.samplers import Denoise
from optimizer.rendering.sampling.schedules import AYS
from optimizer.rendering.sampling.second_pass import noised, scale_of_noise, second_levels
from search_spaces.blocks import Architecture
from search_spaces.families.registry import family_of
from studies.records.batch_limits import Size
from studies.spec.samplers import SAMPLER_INFOS, Sampling
from studies.spec.suite import SuiteItem, SuiteSettings


@torch.no_grad()
def sample(
    models: LiveModels,
    suite: SuiteSettings,
    items: Sequence[SuiteItem],
    conditions: Sequence[Conditions],
    channels: Tensor | None,
    increments: Increments | None = None,
) -> Tensor:
    """Return the latents [n, latent channels, h / 8, w / 8] float32 of items of one size and one sampling.

    They are those of the first pass, if there are two.

    Args:
        conditions: the texts of each item.
        channels: extra input channels, from `image_channels`.
        increments: those of Brownian paths that are known already; new ones are added. None computes all.
    """
    first, levels = items[0], sampling_levels(items[0].sampling, models.prediction)
    sampling, size = first.sampling, (first.width, first.height)
    sigmas = sigmas_of(sampling, levels, models.architecture, suite.program)
    noise = BatchNoise(items, suite, size, models.vae.config.latent_channels, models.unet.device)
    x = noise.first * first_scale(sigmas[0], levels, sampling, suite)
    denoise = _denoiser(models, suite, sampling, size, conditions, channels)
    return sampler_of(sampling.sampler, levels)(denoise, x, sigmas, noise.later(sampling.sampler, sigmas, increments))


@torch.no_grad()
def sample_again(
    models: LiveModels,
    suite: SuiteSettings,
    items: Sequence[SuiteItem],
    conditions: Sequence[Conditions],
    channels: Tensor | None,
    enlarged: Tensor,
    increments: Increments | None = None,
) -> Tensor:
    """Return the latents of the second pass; its noise is drawn with the same seeds as the first's.

    Args:
        conditions: the texts of each item in this pass.
        channels, increments: as for `sample`.
        enlarged: the first pass's latents [n, latent channels, h / 8, w / 8] float32, at the size of the second.
    """
    first, levels = items[0], sampling_levels(items[0].sampling, models.prediction)
    found = second_levels(first.sampling, levels, models.architecture, suite.program)
    noise = BatchNoise(items, suite, first.image_size, models.vae.config.latent_channels, models.unet.device)
    x = noised(enlarged, noise.first, found, levels, suite.program)
    denoise = _denoiser(models, suite, first.sampling, first.image_size, conditions, channels)
    later = noise.later(first.sampling.sampler, found.path, increments)
    return sampler_of(first.sampling.sampler, levels)(denoise, x, found.sigmas, later)


def _denoiser(
    models: LiveModels,
    suite: SuiteSettings,
    sampling: Sampling,
    size: Size,
    conditions: Sequence[Conditions],
    channels: Tensor | None,
) -> Denoise:
    """Return the U-Net as the sampler of a pass calls it.

    Args:
        size: width and height of the pass in pixels, which SDXL's U-Net is told.
    """
    levels, is_consistency = sampling_levels(sampling, models.prediction), METHODS[sampling.sampler].is_consistency
    sizes = suite.size_conditioning.numbers(*size)
    denoise: Denoise = GuidedDenoiser(
        unet=models.unet_call,
        dtype=models.unet.dtype,
        levels=levels,
        conditions=conditions,
        cfg=sampling.cfg if sampling.is_guided else None,
        cfg_rescale=sampling.cfg_rescale,
        pag=sampling.pag,
        added=partial(model_family(models.architecture).added_conditions, sizes=sizes),
        channels=channels,
        nearest_times=is_consistency or suite.program == "comfyui",
    )
    return ConsistencyDenoiser(denoise=denoise, levels=levels) if is_consistency else denoise


def first_scale(sigma: float, levels: Levels, sampling: Sampling, suite: SuiteSettings) -> float:
    """Return the factor of the first noise at its level.

    Noisy latents of training have the deviation sqrt(sigma**2 + 1), as their image's latents have about 1. DDIM and
    UniPC of A1111 have it always, its other samplers with their setting "SGM noise multiplier", and ComfyUI as
    `scale_of_noise` says. A flow mixes noise and image, so that its noise has the level itself.
    """
    if isinstance(levels, Flow):
        return sigma
    whole = SAMPLER_INFOS[sampling.sampler].of_times or suite.sgm_noise_multiplier
    return math.sqrt(sigma**2 + 1) if whole else scale_of_noise(sigma, levels, suite.program)


def check_sampling(item: SuiteItem, suite: SuiteSettings, prediction: Prediction, architecture: Architecture) -> None:
    """Refuse a sampling that cannot render an item.

    Raises:
        RenderError: the sampler makes no step, two levels are the same, the schedule has no levels for the family, or
            the model follows a flow and the sampler or the schedule is not defined for one.
    """
    sampling, levels = item.sampling, sampling_levels(item.sampling, prediction)
    if prediction.kind == "flow":
        check_flow_sampling(sampling, suite)
    if sampling.schedule == "align_your_steps" and (architecture, suite.program) not in AYS:
        raise RenderError(
            f"schedule align_your_steps has no published levels for {family_of(architecture).title}: use another "
            "schedule, such as karras"
        )
    _check_levels(sampling, sigmas_of(sampling, levels, architecture, suite.program), prediction)
    if sampling.second is not None:
        found = second_levels(sampling, levels, architecture, suite.program)
        _check_levels(sampling.second, found.sigmas, prediction, denoise=sampling.hires.denoise)


def _check_levels(
    sampling: Sampling, sigmas: Sequence[float], prediction: Prediction, denoise: float | None = None
) -> None:
    """Refuse levels that a sampler cannot pass through.

    Args:
        denoise: of the second pass, if they are its levels.
    """
    of, more = ("", "") if denoise is None else (f" of hires at denoise {denoise:g}", " or a higher denoise")
    by = "" if denoise is None else f" with schedule {sampling.schedule}"
    if len(sigmas) < 2:
        raise RenderError(
            f"sampler {sampling.sampler} makes no step at all of {sampling.steps}{of}{by}: "
            f"use {'2 steps or more' if denoise is None else f'other steps{more}'}"
        )
    if any(there >= here for here, there in pairwise(sigmas)):
        raise RenderError(
            f"schedule {sampling.schedule} has no {sampling.steps} different noise levels{of} for a model that "
            f"predicts {prediction.description}: use fewer steps{more}, or another schedule"
        )
