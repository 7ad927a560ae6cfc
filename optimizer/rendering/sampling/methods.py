"""How each sampler is carried out: its function, and the levels that it passes through.

What is known of it besides stands in studies/spec/samplers.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import torch

from optimizer.rendering.prediction import Prediction
from optimizer.rendering.sampling import flow
from optimizer.rendering.sampling.levels import LCM_STRIDE, Flow, Levels, levels_of
from optimizer.rendering.sampling.samplers import (
    Sampler,
    sample_ddim_a1111,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lcm,
    sample_lms,
    sample_res_multistep,
    sample_uni_pc,
    sample_uni_pc_a1111,
)
from optimizer.rendering.sampling.schedules import (
    A1111_SCHEDULES,
    AYS,
    SCHEDULES,
    Schedule,
    align_your_steps,
    ddim_of_a1111,
)
from search_spaces.blocks import Architecture
from studies.spec.samplers import SAMPLER_INFOS, ProgramName, SamplerName, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a sampler is carried out."""

    sample: Sampler
    # For a model that follows a flow; None: as others. One whose noise is a Brownian path is given ratios of levels
    # there, by `flow.sample_in_ratio`.
    sample_flow: Sampler | None = None
    levels: Schedule | None = None  # of its own, whatever the schedule is called
    # Whether it samples as A1111's LCM: with every LCM_STRIDE-th level of the table, the nearest times, and
    # `ConsistencyDenoiser`.
    is_consistency: bool = False


METHODS: Final[Mapping[SamplerName, Method]] = {
    "euler": Method(sample=sample_euler),
    "euler_ancestral": Method(sample=sample_euler_ancestral, sample_flow=flow.sample_euler_ancestral),
    "heun": Method(sample=sample_heun),
    "dpm_2": Method(sample=sample_dpm_2),
    "dpm_2_ancestral": Method(sample=sample_dpm_2_ancestral, sample_flow=flow.sample_dpm_2_ancestral),
    "lms": Method(sample=sample_lms),
    "lms_a1111": Method(sample=partial(sample_lms, down_to_0=True)),
    "lms_comfyui": Method(sample=sample_lms),
    "dpmpp_2s_ancestral": Method(sample=sample_dpmpp_2s_ancestral, sample_flow=flow.sample_dpmpp_2s_ancestral),
    "dpmpp_sde": Method(sample=sample_dpmpp_sde, sample_flow=partial(sample_dpmpp_sde, middle_of=flow.middle_ratio)),
    "dpmpp_2m": Method(sample=sample_dpmpp_2m),
    "dpmpp_2m_sde": Method(sample=sample_dpmpp_2m_sde),
    "dpmpp_2m_sde_heun": Method(sample=partial(sample_dpmpp_2m_sde, heun=True)),
    "dpmpp_3m_sde": Method(sample=sample_dpmpp_3m_sde),
    "ddim": Method(sample=sample_euler),
    "ddim_a1111": Method(sample=sample_ddim_a1111, levels=ddim_of_a1111),
    "ddim_comfyui": Method(sample=sample_euler),
    "lcm": Method(sample=sample_lcm, sample_flow=flow.sample_lcm),
    "lcm_a1111": Method(sample=sample_lcm, is_consistency=True),
    "lcm_comfyui": Method(sample=sample_lcm, sample_flow=flow.sample_lcm),
    "res_multistep": Method(sample=sample_res_multistep),
    "uni_pc": Method(sample=sample_uni_pc),
    "uni_pc_a1111": Method(sample=sample_uni_pc_a1111),
    "uni_pc_comfyui": Method(sample=sample_uni_pc),
    "uni_pc_bh2": Method(sample=partial(sample_uni_pc, bh2=True)),
}


def sampler_of(name: SamplerName, levels: Levels) -> Sampler:
    """Return the function of a sampler for a model with these levels.

    Args:
        name: for a flow one of `FLOW_SAMPLERS`.
    """
    method = METHODS[name]
    if not isinstance(levels, Flow):
        return method.sample
    sample = method.sample_flow or method.sample
    if not SAMPLER_INFOS[name].is_brownian:
        return sample
    return partial(flow.sample_in_ratio, sample, begin=float(levels.sigma(torch.tensor(flow.BEGIN_TIME))))


def sampling_levels(sampling: Sampling, prediction: Prediction) -> Levels:
    """Return the noise levels of a model that a sampler knows: LCM of A1111 has a table of 50."""
    levels = levels_of(prediction)
    return levels.thinned(LCM_STRIDE) if METHODS[sampling.sampler].is_consistency else levels


def sigmas_of(
    sampling: Sampling, levels: Levels, architecture: Architecture, program: ProgramName
) -> tuple[float, ...]:
    """Return the levels that a sampler passes through, as the program has them: descending, and 0 at the end mostly.

    Of A1111, DDIM ends at the second level of its schedule from below, UniPC and the schedule `kl_optimal` at the
    lowest level of the model. Those of a flow are ComfyUI's: A1111 renders none of these families.
    """
    if isinstance(levels, Flow):
        program = "comfyui"
    own, aligned = METHODS[sampling.sampler].levels, sampling.schedule == "align_your_steps"
    # ComfyUI passes levels over in its KSampler, which has no align_your_steps: its node gives levels to SamplerCustom,
    # which takes them all.
    passes_over = program in SAMPLER_INFOS[sampling.sampler].passes_over and not (aligned and program == "comfyui")
    steps = sampling.steps + passes_over
    if own is not None:
        sigmas = own(levels, steps)
    elif aligned:
        sigmas = align_your_steps(AYS[architecture, program], steps, program)
    else:
        sigmas = (A1111_SCHEDULES if program == "a1111" else SCHEDULES)[sampling.schedule](levels, steps)
    if passes_over:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return tuple(sigmas.tolist())


@cache
def calls_of(sampling: Sampling, prediction: Prediction, program: ProgramName) -> int:
    """Return how often a sampler calls the denoiser for an image.

    The steps of schedules that take whole places of a table may be more or fewer than were asked for.
    """
    family = Architecture.SD15  # the published levels of every family are equally many
    sigmas = sigmas_of(sampling, sampling_levels(sampling, prediction), family, program)
    return calls_through(sigmas, sampling.sampler)


def calls_through(sigmas: Sequence[float], sampler: SamplerName) -> int:
    """Return how often a sampler calls the denoiser on its way through levels."""
    steps = len(sigmas) - 1
    to_zero = sum(sigma == 0 for sigma in sigmas)  # the last one, if any, which takes one call with every sampler
    return (steps - to_zero) * SAMPLER_INFOS[sampler].calls + to_zero
