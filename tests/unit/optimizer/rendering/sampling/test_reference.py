"""Final latents of a small U-Net with guidance 7 against sampling that is written from formulas in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import reference_sampling
import torch
from live import CPU, lively, resident_of, with_small_unet
from small_files import small_parents
from stochastic_samplers import STOCHASTIC
from torch import Tensor

from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.encoder import Conditions, PromptEncoder
from optimizer.rendering.sampling.methods import sampling_levels, sigmas_of
from optimizer.rendering.sampling.sample import sample
from search_spaces.blocks import Architecture
from studies.spec.samplers import A1111_FORMS, COMFYUI_FORMS, FLOW_SAMPLERS, FLOW_SCHEDULES, SAMPLERS, SamplerName
from studies.spec.suite import SuiteSettings

CFG, SEED = 7.0, 11
PROGRAMS = ("a1111", "comfyui")
FLOW = [name for name in FLOW_SAMPLERS if name not in {"lms", "ddim", "lcm", "uni_pc"}]  # which `program` changes
PLAIN = [name for name in SAMPLERS if name not in {*A1111_FORMS.values(), *COMFYUI_FORMS.values()}]


@pytest.fixture(scope="module")
def models() -> LiveModels:
    return lively(with_small_unet(build_models(resident_of(small_parents(Architecture.SD15)[:1], CPU))))


@pytest.fixture(scope="module")
def unet(models: LiveModels) -> Any:
    return copy.deepcopy(models.unet).double()


def guided(unet: Any, conditions: Conditions) -> Callable[[Tensor, float], Tensor]:
    """Return the U-Net's guided output in float64: arXiv:2207.12598, eq. 6."""
    sides = conditions.negative, conditions.positive
    text = torch.stack([side[0].embedding.tokens for side in sides]).double()

    def model(x: Tensor, time: float) -> Tensor:
        with torch.no_grad():
            output: Tensor = unet(torch.cat([x, x]), torch.tensor(time).double(), encoder_hidden_states=text).sample
        without, within = output.chunk(2)
        return without + CFG * (within - without)

    return model


def without_half_times(sampler: SamplerName, schedule: str, program: str, steps: int) -> int:
    """Return a step more where 999 would be divided by an even number: a nearest time hangs on the last bit there."""
    intervals = steps + (sampler in reference_sampling.PASSING_OVER[program]) - (schedule == "normal")
    return steps + (intervals % 2 == 0)


def assert_equals_the_formulas(
    models: LiveModels, unet: Any, sampler: SamplerName, schedule: str, program: str, steps: int = 4
) -> None:
    steps = without_half_times(sampler, schedule, program, steps)
    row = {"prompt": "a cat", "negative": "blurry", "seeds": [SEED], "sizes": [64]}
    settings = {"prompts": [row], "steps": steps, "cfg": CFG, "program": program}
    suite = SuiteSettings.model_validate(settings | {"sampler": sampler, "schedule": schedule})
    (item,) = suite.items()
    conditions = PromptEncoder(models, suite).conditions([item])[0]
    found = sample(models, suite, [item], [conditions], None)
    assert found.dtype == torch.float32
    common: dict[str, Any] = {
        "sampler": A1111_FORMS.get(sampler, sampler) if program == "a1111" else sampler,
        "schedule": schedule,
        "steps": steps,
        "program": program,
        "seed": SEED,
        "shape": (1, 4, 8, 8),
        "path_levels": sigmas_of(
            item.sampling, sampling_levels(item.sampling, models.prediction), models.architecture, suite.program
        ),
    }
    model, shift = guided(unet, conditions), models.prediction.shift
    if shift is None:
        expected = reference_sampling.sampled(model, **common, predicts_v=models.prediction.kind == "v")
    else:
        expected = reference_sampling.sampled_flow(model, **common, shift=shift)
    difference = float((found.double() - expected).norm() / expected.norm())
    assert difference < (1e-3 if sampler in STOCHASTIC else 1e-4)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("sampler", PLAIN)
def test_latents_are_those_of_the_formulas(sampler: SamplerName, program: str, models: LiveModels, unet: Any) -> None:
    assert_equals_the_formulas(models, unet, sampler, "normal", program)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lms", "lcm", "dpmpp_3m_sde"])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("schedule", ["karras", "simple", "sgm_uniform"])  # the last ends far above 0
def test_with_other_schedules(sampler: SamplerName, schedule: str, program: str, models: LiveModels, unet: Any) -> None:
    assert_equals_the_formulas(models, unet, sampler, schedule, program)


@pytest.mark.slow  # the tests before take a few of these
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("schedule", ["karras", "simple", "exponential", "sgm_uniform", "ddim_uniform"])
@pytest.mark.parametrize("sampler", PLAIN)
def test_every_sampler_with_every_schedule(
    sampler: SamplerName, schedule: str, program: str, models: LiveModels, unet: Any
) -> None:
    assert_equals_the_formulas(models, unet, sampler, schedule, program, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("sampler", PLAIN)
def test_every_sampler_of_a_model_that_predicts_v(
    sampler: SamplerName, program: str, models: LiveModels, unet: Any
) -> None:
    of_v = replace(models, prediction=Prediction(kind="v"))
    assert_equals_the_formulas(of_v, unet, sampler, "normal", program, steps=6)


# ------------------------------------------------------------------------------------------ flows


def of_flow(models: LiveModels, shift: float) -> LiveModels:
    return replace(models, prediction=Prediction(kind="flow", shift=shift))


@pytest.mark.parametrize("sampler", FLOW)
def test_a_flow_is_sampled_as_the_formulas_say(sampler: SamplerName, models: LiveModels, unet: Any) -> None:
    assert_equals_the_formulas(of_flow(models, 3.0), unet, sampler, "normal", "comfyui")


@pytest.mark.parametrize("shift", [1.0, 6.0, 12.0])
@pytest.mark.parametrize(
    ("sampler", "schedule", "program"),
    [
        ("euler", "beta", "comfyui"),
        ("euler_ancestral", "simple", "a1111"),
        ("dpmpp_2s_ancestral", "ddim_uniform", "comfyui"),  # which begins below level 1
        ("dpmpp_sde", "sgm_uniform", "a1111"),
        ("dpmpp_3m_sde", "beta", "comfyui"),
    ],
)
def test_a_flow_with_other_shifts(
    sampler: SamplerName, schedule: str, program: str, shift: float, models: LiveModels, unet: Any
) -> None:
    assert_equals_the_formulas(of_flow(models, shift), unet, sampler, schedule, program)


@pytest.mark.slow  # the tests before take a few of these
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("schedule", FLOW_SCHEDULES)
@pytest.mark.parametrize("sampler", FLOW)
def test_a_flow_with_every_sampler_and_schedule(
    sampler: SamplerName, schedule: str, program: str, models: LiveModels, unet: Any
) -> None:
    assert_equals_the_formulas(of_flow(models, 3.0), unet, sampler, schedule, program, steps=6)
