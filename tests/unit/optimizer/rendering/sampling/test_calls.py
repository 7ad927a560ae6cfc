"""How often samplers call the denoiser: what is said against what they do."""

from __future__ import annotations

import pytest
import torch
from slow_cases import first_fast
from torch import Tensor

from optimizer.rendering.prediction import EPSILON, Prediction
from optimizer.rendering.sampling.levels import Flow
from optimizer.rendering.sampling.methods import calls_of, sampler_of, sampling_levels, sigmas_of
from search_spaces.blocks import Architecture
from studies.spec.samplers import (
    FLOW_SAMPLERS,
    FLOW_SCHEDULES,
    PROGRAMS,
    SAMPLERS,
    SCHEDULES,
    ProgramName,
    SamplerName,
    Sampling,
    ScheduleName,
)


def made(sampling: Sampling, prediction: Prediction, program: ProgramName) -> int:
    """Return how often a sampler calls a denoiser, by counting."""
    calls = 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return x / (1 + sigma**2)

    levels = sampling_levels(sampling, prediction)
    sigmas = sigmas_of(sampling, levels, Architecture.SDXL, program)
    x, noise = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    assert isinstance(levels, Flow) == (prediction.kind == "flow")
    sampler_of(sampling.sampler, levels)(denoise, x, sigmas, lambda _from, _to: noise)
    return calls


@pytest.mark.parametrize("steps", first_fast(1, [7, 30, 4]))  # of which the first two divide no table
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_calls_the_denoiser_as_often_as_is_said(
    sampler: SamplerName, program: ProgramName, steps: int
) -> None:
    for schedule in SCHEDULES:
        sampling = Sampling(sampler=sampler, schedule=schedule, steps=steps, cfg=1)
        assert calls_of(sampling, EPSILON, program) == made(sampling, EPSILON, program), schedule


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_so_it_is_for_a_flow(sampler: SamplerName, program: ProgramName) -> None:
    flow = Prediction(kind="flow", shift=3.0)
    for schedule in FLOW_SCHEDULES:
        sampling = Sampling(sampler=sampler, schedule=schedule, steps=7, cfg=1)
        assert calls_of(sampling, flow, program) == made(sampling, flow, program), schedule


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps", "program", "calls"),
    [
        ("euler", "normal", 30, "a1111", 30),
        ("heun", "karras", 30, "a1111", 59),  # one call at the step to level 0
        ("euler", "ddim_uniform", 30, "comfyui", 31),  # every 33rd of 1000 levels
        ("heun", "ddim_uniform", 30, "a1111", 61),
        ("ddim_a1111", "ddim_uniform", 30, "a1111", 30),  # as many levels, whose lowest is the end
        ("uni_pc_a1111", "time_uniform", 30, "a1111", 31),
        ("uni_pc_a1111", "time_uniform", 20, "a1111", 20),
        ("lcm_a1111", "ddim_uniform", 8, "a1111", 9),  # every 6th of 50 levels
        ("heun", "kl_optimal", 10, "a1111", 20),  # which ends above 0
        ("heun", "kl_optimal", 10, "comfyui", 19),
    ],
)
def test_calls_of_schedules_that_make_other_steps(
    sampler: SamplerName, schedule: ScheduleName, steps: int, program: ProgramName, calls: int
) -> None:
    sampling = Sampling(sampler=sampler, schedule=schedule, steps=steps, cfg=1)
    assert calls_of(sampling, EPSILON, program) == calls
