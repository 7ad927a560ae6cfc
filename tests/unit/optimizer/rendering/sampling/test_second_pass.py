"""The second pass: its levels and latents against formulas in float64, its noise, its sizes and what is refused."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import reference_sampling
import torch
from live import CPU, lively, resident_of, with_small_unet
from slow_cases import first_fast
from small_files import small_parents
from stochastic_samplers import STOCHASTIC

from optimizer.errors import RenderError
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.encoder import Conditions, PromptEncoder
from optimizer.rendering.sampling.levels import flow_levels
from optimizer.rendering.sampling.methods import sampling_levels, sigmas_of
from optimizer.rendering.sampling.sample import check_sampling, sample, sample_again
from optimizer.rendering.sampling.second_pass import noised, second_calls_of, second_levels
from search_spaces.blocks import Architecture
from studies.spec.samplers import A1111_FORMS, COMFYUI_FORMS, SAMPLERS, SamplerName
from studies.spec.suite import SuiteSettings

CFG, SEED = 7.0, 11
PROGRAMS = ("a1111", "comfyui")
PLAIN = [name for name in SAMPLERS if name not in {*A1111_FORMS.values(), *COMFYUI_FORMS.values()}]
FAST = ("euler", "dpmpp_2m_sde", "ddim", "uni_pc")  # with every strength, as one of each kind
EPSILON = Prediction()


def suite_of(hires: Any, **settings: Any) -> SuiteSettings:
    row = {"prompt": "a cat", "negative": "blurry", "seeds": [SEED], "sizes": [64]}
    return SuiteSettings.model_validate({"prompts": [row], "steps": 5, "cfg": CFG, "hires": hires} | settings)


@pytest.fixture(scope="module")
def models() -> LiveModels:
    return lively(with_small_unet(build_models(resident_of(small_parents(Architecture.SD15)[:1], CPU))))


@pytest.fixture(scope="module")
def unet(models: LiveModels) -> Any:
    return copy.deepcopy(models.unet).double()


def guided(unet: Any, conditions: Conditions) -> Any:
    """Return the U-Net's guided output in float64: arXiv:2207.12598, eq. 6."""
    text = torch.stack([side[0].embedding.tokens for side in (conditions.negative, conditions.positive)]).double()

    def model(x: torch.Tensor, time: float) -> torch.Tensor:
        with torch.no_grad():
            output = unet(torch.cat([x, x]), torch.tensor(time).double(), encoder_hidden_states=text).sample
        without, within = output.chunk(2)
        result: torch.Tensor = without + CFG * (within - without)
        return result

    return model


def steps_without_half_times(sampler: SamplerName, program: str, strength: float) -> int:
    """Return steps of which none is at a time half between two: there a nearest time hangs on the last bit."""
    over = sampler in reference_sampling.PASSING_OVER[program]
    return next(steps for steps in (4, 5, 6) if (int(steps / strength) - 1 + over) % 2)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("sampler", "strength"),
    [
        *((name, 0.7) for name in FAST),
        *first_fast(0, ((name, 0.7) for name in PLAIN if name not in FAST)),
        *((name, strength) for name in FAST for strength in (0.35, 1.0)),
        *(
            pytest.param(name, strength, marks=pytest.mark.slow)
            for name in PLAIN
            if name not in FAST
            for strength in (0.35, 1.0)
        ),
    ],
)
def test_latents_are_those_of_the_formulas(
    sampler: SamplerName, program: str, strength: float, models: LiveModels, unet: Any
) -> None:
    steps = steps_without_half_times(sampler, program, strength)
    hires = {"scale": 2, "steps": steps, "denoise": strength}
    suite = suite_of(hires, sampler=sampler, schedule="normal", program=program)
    (item,) = suite.items()
    conditions = PromptEncoder(models, suite).second_conditions([item])[0]
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    found = sample_again(models, suite, [item], [conditions], None, latents)
    expected = reference_sampling.sampled_again(
        guided(unet, conditions),
        latents.double(),
        sampler=item.sampling.sampler,
        schedule=item.sampling.schedule,
        steps=steps,
        strength=strength,
        program=program,
        seed=SEED,
        path_levels=second_levels(
            item.sampling, sampling_levels(item.sampling, EPSILON), Architecture.SD15, suite.program
        ).path,
    )
    difference = float((found.double() - expected).norm() / expected.norm())
    assert difference < (1e-3 if sampler in STOCHASTIC else 1e-4)


@pytest.mark.parametrize("schedule", ["karras", "simple", "exponential", "sgm_uniform", "ddim_uniform"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_levels_are_those_of_the_formulas(program: str, schedule: str) -> None:
    suite = suite_of({"steps": 12, "denoise": 0.45}, sampler="euler", schedule=schedule, program=program)
    (item,) = suite.items()
    found = second_levels(item.sampling, sampling_levels(item.sampling, EPSILON), Architecture.SD15, suite.program)
    start, levels = reference_sampling.second_levels_of("euler", schedule, 12, program, 0.45)
    assert found.start == pytest.approx(start, rel=1e-5)
    assert found.sigmas == pytest.approx(levels, rel=1e-5)


def test_as_many_steps_are_made_as_asked_for_with_any_strength() -> None:
    for strength in (0.05, 0.3, 0.55, 0.9, 1.0):
        (item,) = suite_of({"steps": 7, "denoise": strength}).items()
        found = second_levels(item.sampling, sampling_levels(item.sampling, EPSILON), Architecture.SD15, "a1111")
        assert len(found.sigmas) == 8
        assert all(here > there for here, there in pairwise(found.sigmas))


def test_comfyui_makes_all_steps_of_a_schedule_at_full_strength() -> None:
    for sampler, schedule, steps in (("ddim", "ddim_uniform", 30), ("dpm_2", "ddim_uniform", 10)):
        settings: dict[str, Any] = {"sampler": sampler, "schedule": schedule, "program": "comfyui", "steps": steps}
        (item,) = suite_of({"denoise": 1}, **settings).items()
        levels = sampling_levels(item.sampling, EPSILON)
        found = second_levels(item.sampling, levels, Architecture.SD15, "comfyui")
        assert found.sigmas == sigmas_of(item.sampling, levels, Architecture.SD15, "comfyui")


def test_ddim_of_a1111_at_full_strength_begins_at_its_highest_level() -> None:
    (item,) = suite_of({"steps": 1000, "denoise": 1}, sampler="ddim").items()
    found = second_levels(item.sampling, sampling_levels(item.sampling, EPSILON), Architecture.SD15, "a1111")
    assert found.start >= found.sigmas[0] > 14


def test_a_flow_mixes_latents_and_noise() -> None:
    (item,) = suite_of({"steps": 4, "denoise": 0.5}, prediction="flow", sampler="euler", schedule="simple").items()
    levels = flow_levels(3.0)
    found = second_levels(item.sampling, levels, Architecture.SDXL, "a1111")
    latents, noise = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    assert 0 < found.start < 1
    torch.testing.assert_close(noised(latents, noise, found, levels, "a1111"), latents * (1 - found.start))
    torch.testing.assert_close(noised(noise, latents, found, levels, "a1111"), latents * found.start)


def test_its_noise_is_that_of_a_first_pass_of_its_size(models: LiveModels) -> None:
    """At denoise 1 in ComfyUI, which makes all steps, latents of 0 end as a first pass of that size does."""
    settings: dict[str, Any] = {"program": "comfyui", "sampler": "euler_ancestral", "schedule": "normal"}
    twice, once = suite_of({"scale": 2, "denoise": 1}, **settings), suite_of(False, **settings)
    large = once.model_copy(update={"prompts": (once.prompts[0].model_copy(update={"sizes": ((128, 128),)}),)})
    (item,), (large_item,) = twice.items(), large.items()
    conditions = [PromptEncoder(models, twice).second_conditions([item])[0]]
    found = sample_again(models, twice, [item], conditions, None, torch.zeros(1, 4, 16, 16))
    expected = sample(models, large, [large_item], conditions, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def check(suite: SuiteSettings, architecture: Architecture = Architecture.SD15) -> None:
    for item in suite.items():
        check_sampling(item, suite, EPSILON, architecture)


class TestRefused:
    @pytest.mark.parametrize("steps", [1, 2])
    def test_too_few_steps_of_a1111s_ddim(self, steps: int) -> None:
        with pytest.raises(RenderError, match=f"makes no step at all of {steps} of hires at denoise 0.7 with schedule"):
            check(suite_of({"steps": steps}, sampler="ddim"))

    def test_a_schedule_with_too_few_levels(self) -> None:
        suite = suite_of({"denoise": 0.1, "steps": 10}, sampler="LCM", schedule="ddim_uniform")
        with pytest.raises(RenderError, match="with schedule ddim_uniform: use other steps or a higher denoise"):
            check(suite)

    def test_more_levels_than_the_model_has(self) -> None:
        with pytest.raises(RenderError, match="has no 8 different noise levels of hires"):
            check(suite_of({"steps": 8, "denoise": 0.1}, sampler="LCM", schedule="simple"))


class TestCalls:
    @pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde", "ddim", "uni_pc", "lcm"])
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_are_as_many_as_the_sampler_makes(self, sampler: str, program: Any, models: LiveModels) -> None:
        suite = suite_of({"steps": 6, "denoise": 0.6}, sampler=sampler, program=program)
        (item,) = suite.items()
        made: list[float] = []
        handle = models.unet.register_forward_pre_hook(lambda _module, _inputs: made.append(0))
        try:
            conditions = PromptEncoder(models, suite).second_conditions([item])[0]
            sample_again(models, suite, [item], [conditions], None, torch.zeros(1, 4, 16, 16))
        finally:
            handle.remove()
        assert second_calls_of(item.sampling, EPSILON, program) == len(made)
