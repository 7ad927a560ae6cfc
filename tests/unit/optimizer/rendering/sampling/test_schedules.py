"""Noise levels against formulas written here in float64, with the numbers that ComfyUI's and A1111's sources name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import betaincinv

from optimizer.rendering.prediction import EPSILON, EdmRange, Prediction
from optimizer.rendering.sampling.levels import LCM_STRIDE, levels_of
from optimizer.rendering.sampling.methods import sigmas_of
from search_spaces.blocks import Architecture
from studies.spec.samplers import SCHEDULES, ProgramName, SamplerName, Sampling, ScheduleName

ZERO_SNR = Prediction(kind="v", zero_snr=True)
COSXL = Prediction(kind="v", edm=EdmRange(sigma_min=0.002, sigma_max=120.0, sigma_data=1.0))


def table() -> np.ndarray:
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.sqrt((1 - kept) / kept)


def at_times(times: Sequence[float] | np.ndarray) -> list[float]:
    """Noise levels at fractional times, interpolated linearly in their logarithm."""
    return [*np.exp(np.interp(times, np.arange(1000), np.log(table()))), 0.0]


def expected(schedule: ScheduleName, steps: int) -> list[float]:
    """The levels of a schedule as ComfyUI has it."""
    low, high = table()[0], table()[-1]
    share = np.arange(steps) / (steps - 1)
    match schedule:
        case "normal":
            return at_times(999 * (1 - share))
        case "sgm_uniform":
            return at_times(999 * (1 - np.arange(steps) / steps))
        case "simple":
            return [*(table()[999 - int(step * 1000 / steps)] for step in range(steps)), 0.0]
        case "ddim_uniform":
            return [*(table()[place] for place in reversed(range(1, 1000, 1000 // steps))), 0.0]
        case "turbo":
            return [*(table()[round(1000 * (1 - step / steps) - 1)] for step in range(steps)), 0.0]
        case "karras":
            return [*(high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7, 0.0]
        case "exponential":
            return [*high ** (1 - share) * low**share, 0.0]
        case "kl_optimal":
            return [*np.tan(share * math.atan(low) + (1 - share) * math.atan(high)), 0.0]
        case "beta":
            places = np.rint(999 * betaincinv(0.6, 0.6, 1 - np.arange(steps) / steps)).astype(int)
            return [*(table()[place] for place in dict.fromkeys(places)), 0.0]
        case _:
            raise AssertionError(schedule)


def sigmas(
    schedule: ScheduleName,
    steps: int,
    *,
    prediction: Prediction = EPSILON,
    program: ProgramName = "comfyui",
    sampler: SamplerName = "euler",
    architecture: Architecture = Architecture.SD15,
) -> tuple[float, ...]:
    sampling = Sampling(sampler=sampler, schedule=schedule, steps=steps, cfg=1.0)
    return sigmas_of(sampling, levels_of(prediction), architecture, program)


@pytest.mark.parametrize("steps", [2, 4, 20, 30])
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name not in {"align_your_steps", "time_uniform"}])
def test_levels_are_those_of_the_formula(schedule: ScheduleName, steps: int) -> None:
    np.testing.assert_allclose(sigmas(schedule, steps), expected(schedule, steps), rtol=1e-5)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (2, 2), (20, 20), (30, 31)])
def test_unipc_of_a1111_is_even_in_time_and_ends_at_the_lowest_level(steps: int, count: int) -> None:
    """There are as many steps as DDIM has times: len(range(0, 1000, 1000 // steps))."""
    found = sigmas("time_uniform", steps, sampler="uni_pc_a1111", program="a1111")
    log_alpha = np.interp(np.linspace(999, 0, count + 1), np.arange(1000), np.log(1 / (table() ** 2 + 1)) / 2)
    np.testing.assert_allclose(found, np.sqrt(1 / np.exp(log_alpha) ** 2 - 1), rtol=1e-5)


def test_align_your_steps_has_its_published_levels_and_interpolates_their_logarithm() -> None:
    ten = sigmas("align_your_steps", 10)
    np.testing.assert_allclose(ten[:3], [14.6146412293, 6.4745760956, 3.8636745985], rtol=1e-6)
    twenty = sigmas("align_your_steps", 20, architecture=Architecture.SDXL)
    np.testing.assert_allclose(twenty[1], math.sqrt(14.6146412293 * 6.3184485287), rtol=1e-5)
    assert (len(ten), len(twenty), ten[-1], twenty[-1]) == (11, 21, 0, 0)


def test_a1111_has_levels_of_its_own() -> None:
    low, high = table()[0], table()[-1]
    share = np.arange(11) / 10
    tangents = np.tan(share * math.atan(low) + (1 - share) * math.atan(high))
    np.testing.assert_allclose(sigmas("kl_optimal", 10, program="a1111"), tangents, rtol=1e-5)
    quantiles = betaincinv(0.6, 0.6, 1 - np.arange(10) / 9)
    np.testing.assert_allclose(sigmas("beta", 10, program="a1111"), [*(low + quantiles * (high - low)), 0.0], rtol=1e-5)
    np.testing.assert_allclose(
        sigmas("align_your_steps", 11, program="a1111"),
        [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029, 0.0],
        rtol=1e-6,
    )


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_comfyui", "uni_pc_bh2"])
def test_some_samplers_pass_over_the_last_level_before_the_end(sampler: SamplerName) -> None:
    whole = sigmas("karras", 21)
    assert sigmas("karras", 20, sampler=sampler) == (*whole[:-2], 0.0)
    assert sigmas("karras", 20, sampler=sampler, program="a1111") == (*whole[:-2], 0.0)
    assert sigmas("karras", 20, sampler="dpmpp_3m_sde", program="a1111") == (*whole[:-2], 0.0)
    assert sigmas("karras", 20, sampler="dpmpp_3m_sde") == sigmas("karras", 20)


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"])
@pytest.mark.parametrize("architecture", list(Architecture))
def test_comfyuis_levels_of_align_your_steps_are_all_passed_through(
    architecture: Architecture, sampler: SamplerName
) -> None:
    """They come from a node for SamplerCustom, and only the KSampler passes one over."""
    for steps in (10, 20):
        found = sigmas("align_your_steps", steps, sampler=sampler, architecture=architecture)
        assert found == sigmas("align_your_steps", steps, architecture=architecture)
    whole = sigmas("align_your_steps", 11, program="a1111", architecture=architecture)
    found = sigmas("align_your_steps", 10, program="a1111", architecture=architecture, sampler=sampler)
    assert found == (*whole[:-2], 0.0)


def test_lcm_of_a1111_has_every_twentieth_level() -> None:
    """modules/sd_samplers_lcm.py: times are 19, 39 ... 999, and levels between them are interpolated."""
    levels = levels_of(EPSILON).thinned(LCM_STRIDE)
    kept = table()[19::20]
    np.testing.assert_allclose(levels.sigmas, kept, rtol=1e-5)
    assert [levels.time(float(level), nearest=True) for level in kept] == [19 + 20 * place for place in range(50)]
    assert levels.time(kept[7] * 1.001, nearest=True) == 159

    def found(schedule: ScheduleName, steps: int) -> tuple[float, ...]:
        sampling = Sampling(sampler="lcm_a1111", schedule=schedule, steps=steps, cfg=1.0)
        return sigmas_of(sampling, levels, Architecture.SD15, "a1111")

    places = np.linspace(49, 0, 8)
    np.testing.assert_allclose(found("normal", 8), [*np.exp(np.interp(places, range(50), np.log(kept))), 0], rtol=1e-5)
    np.testing.assert_allclose(found("simple", 4), [*kept[[49, 37, 24, 12]], 0], rtol=1e-5)
    np.testing.assert_allclose(found("ddim_uniform", 25), [*kept[49:0:-2], 0], rtol=1e-5)
    ends = kept[49] ** (1 / 7), kept[0] ** (1 / 7)
    np.testing.assert_allclose(found("karras", 5), [*np.linspace(*ends, 5) ** 7, 0], rtol=1e-5)


def test_ddim_of_a1111_ends_at_the_first_level_of_its_own_times() -> None:
    found = sigmas("ddim_uniform", 20, sampler="ddim_a1111")
    np.testing.assert_allclose(found, table()[951::-50], rtol=1e-5)


@pytest.mark.parametrize("steps", [3, 9, 27, 36, 37, 111, 333, 999])
def test_ddim_of_a1111_begins_at_the_last_level_where_its_times_would_reach_beyond(steps: int) -> None:
    """modules/sd_samplers_timesteps.py: the times 1, 1 + k, 1 + 2 k ... are clipped to 999."""
    times = np.unique(np.minimum(np.arange(0, 1000, 1000 // steps) + 1, 999))
    assert times[-1] == 999
    np.testing.assert_allclose(sigmas("ddim_uniform", steps, sampler="ddim_a1111"), table()[times[::-1]], rtol=1e-5)


@pytest.mark.parametrize("program", ["a1111", "comfyui"])
@pytest.mark.parametrize("prediction", [EPSILON, ZERO_SNR, COSXL], ids=lambda each: each.description)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_fall_from_the_models_range_to_0(
    schedule: ScheduleName, prediction: Prediction, program: ProgramName
) -> None:
    for steps in (1, 2, 7, 20, 150):
        found = sigmas(schedule, steps, prediction=prediction, program=program)
        assert all(here > there for here, there in pairwise(found))
        assert found[-1] <= table()[0] * 1.001


class TestTimes:
    @pytest.mark.parametrize("time", [0.0, 0.25, 500.5, 998.75, 999.0])
    def test_are_interpolated_in_the_logarithm_or_the_nearest(self, time: float) -> None:
        levels = levels_of(EPSILON)
        (sigma, _) = at_times([time])
        assert levels.time(sigma) == pytest.approx(time, abs=1e-3)
        assert levels.time(sigma, nearest=True) in {math.floor(time), math.ceil(time)}

    def test_of_edm_models_are_a_quarter_of_the_logarithm(self) -> None:
        assert levels_of(COSXL).time(2.0) == pytest.approx(math.log(2) / 4)
        assert levels_of(COSXL).time(2.0, nearest=True) == levels_of(COSXL).time(2.0)


def test_zero_terminal_snr_ends_where_comfyui_does() -> None:
    root = 1 / np.sqrt(table() ** 2 + 1)
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    found = levels_of(ZERO_SNR).sigmas.double().numpy()
    np.testing.assert_allclose(found[:-1], np.sqrt(1 / rescaled[:-1] ** 2 - 1), rtol=1e-5)
    assert found[-1] == pytest.approx(4518.8, rel=1e-4)
