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
from search_spaces.blocks import Architecture
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

    Args:
        conditions: the texts of each item.
        channels: extra input channels, from `image_channels`.
        increments: those of Brownian paths that are known already; new ones are added. None computes all.
    """
    first, unet = items[0], models.unet
    sampling, levels = first.sampling, sampling_levels(first.sampling, models.prediction)
    sigmas = sigmas_of(sampling, levels, models.architecture, suite.noise)
    noise = BatchNoise(items, suite, models.vae.config.latent_channels, unet.device)
    sizes = suite.size_conditioning.numbers(first.width, first.height)
    is_consistency = METHODS[sampling.sampler].is_consistency
    denoise: Denoise = GuidedDenoiser(
        unet=models.unet_call,
        dtype=unet.dtype,
        levels=levels,
        conditions=conditions,
        cfg=sampling.cfg if sampling.is_guided else None,
        cfg_rescale=sampling.cfg_rescale,
        pag=sampling.pag,
        added=partial(model_family(models.architecture).added_conditions, sizes=sizes),
        channels=channels,
        nearest_times=is_consistency or suite.noise == "comfyui",
    )
    if is_consistency:
        denoise = ConsistencyDenoiser(denoise=denoise, levels=levels)
    x = noise.first * first_scale(sigmas[0], levels, sampling, suite)
    sampler = sampler_of(sampling.sampler, levels)
    return sampler(denoise, x, sigmas, noise.later(sampling.sampler, sigmas, increments))


def first_scale(sigma: float, levels: Levels, sampling: Sampling, suite: SuiteSettings) -> float:
    """Return the factor of the first noise at its level.

    Noisy latents of training have the deviation sqrt(sigma**2 + 1), as their image's latents have about 1. ComfyUI has
    it at the highest level, DDIM and UniPC of A1111 always, its other samplers with their setting "SGM noise
    multiplier". A flow mixes noise and image, so that its noise has the level itself.
    """
    if isinstance(levels, Flow):
        return sigma
    highest = float(levels.sigmas[-1])
    at_highest = sigma > highest or math.isclose(sigma, highest, rel_tol=1e-5)
    whole = SAMPLER_INFOS[sampling.sampler].of_times or (suite.noise == "comfyui" and at_highest)
    return math.sqrt(sigma**2 + 1) if whole or suite.sgm_noise_multiplier else sigma


def check_sampling(item: SuiteItem, suite: SuiteSettings, prediction: Prediction, architecture: Architecture) -> None:
    """Refuse a sampling that cannot render an item.

    Raises:
        RenderError: the sampler makes no step, two levels are the same, or the model follows a flow and the sampler or
            the schedule is not defined for one.
    """
    sampling = item.sampling
    if prediction.kind == "flow":
        check_flow_sampling(sampling, suite)
    sigmas = sigmas_of(sampling, sampling_levels(sampling, prediction), architecture, suite.noise)
    if len(sigmas) < 2:
        raise RenderError(f"sampler {sampling.sampler} makes no step at all of {sampling.steps}: use 2 steps or more")
    if any(there >= here for here, there in pairwise(sigmas)):
        raise RenderError(
            f"schedule {sampling.schedule} has no {sampling.steps} different noise levels for a model that predicts "
            f"{prediction.description}: use fewer steps, or another schedule"
        )
