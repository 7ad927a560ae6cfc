"""Samplers against the exact solution for Gaussian data, and against loops written from the papers in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference_sampling import LOOPS
from stochastic_samplers import STOCHASTIC
from torch import Tensor

from optimizer.rendering.sampling.methods import METHODS
from optimizer.rendering.sampling.noise import Noise
from optimizer.rendering.sampling.samplers import Denoise
from studies.spec.samplers import SamplerName

SAMPLERS = {name: method.sample for name, method in METHODS.items()}
MEAN, DEVIATION = 0.7, 0.5
LEVELS = (14.6, 9.1, 5.5, 3.2, 1.7, 0.9, 0.45, 0.2, 0.08, 0.03, 0.0)
DETERMINISTIC = tuple(name for name in SAMPLERS if name not in STOCHASTIC)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The best guess of clean values that are normal with this mean and deviation."""
    return MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (x - MEAN)


def two_humps(x: Tensor, sigma: float) -> Tensor:
    """The same for values near -1 or 1, which makes the flow bend."""
    spread = DEVIATION**2 + sigma**2
    side = torch.tanh(x / spread)
    return (DEVIATION**2 * x + sigma**2 * side) / spread


def start(sigma: float) -> Tensor:
    return sigma * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise_source() -> Noise:
    generator = torch.Generator().manual_seed(1)
    return lambda _high, _low: torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)


def geometric(steps: int, lowest: float = 0.02) -> tuple[float, ...]:
    return (*np.geomspace(10, lowest, steps).tolist(), 0.0)


# ------------------------------------------------------------------------------------ orders and distributions


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm_2", 2), ("dpmpp_2m", 2), ("res_multistep", 2), ("lms", 2)],
)
def test_the_error_falls_with_the_order_of_the_method(name: SamplerName, order: int) -> None:
    """Over a fixed range of levels, whose last is no 0, twice the steps divide the error by 2 to the order."""
    errors = []
    for steps in (40, 80):
        levels = np.geomspace(10, 0.5, steps + 1).tolist()
        x = start(10)
        exact = MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + 0.25) / (DEVIATION**2 + 100))
        errors.append(float((SAMPLERS[name](gaussian, x, levels, noise_source()) - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) > order - 0.35, errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_gaussian_data_come_out_with_their_mean_and_deviation(name: SamplerName) -> None:
    if name.startswith("lcm"):
        pytest.skip("a consistency model predicts a sample, which the mean of all is not")
    found = SAMPLERS[name](gaussian, start(10), geometric(100), noise_source())
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(found.std()) == pytest.approx(DEVIATION, abs=0.06)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_draw_no_noise(name: SamplerName) -> None:
    def refuse(_high: float, _low: float) -> Tensor:
        raise AssertionError

    assert SAMPLERS[name](gaussian, start(LEVELS[0]), LEVELS, refuse).isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoisers_guess(name: SamplerName) -> None:
    if name == "ddim_a1111" or name.startswith("uni_pc"):
        pytest.skip("they end above 0")
    x = start(14.6)
    torch.testing.assert_close(SAMPLERS[name](gaussian, x, (14.6, 0.0), noise_source()), gaussian(x, 14.6))


# ------------------------------------------------------------------------------------ loops from the papers


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("denoise", [gaussian, two_humps])
def test_a_sampler_is_the_loop_of_its_paper(name: SamplerName, denoise: Denoise) -> None:
    for levels in (LEVELS, geometric(5), geometric(2), geometric(9)[:-1]):
        x = start(levels[0])
        found = SAMPLERS[name](denoise, x, levels, noise_source())
        torch.testing.assert_close(found, LOOPS[name](denoise, x, levels, noise_source()), rtol=1e-6, atol=1e-6)
