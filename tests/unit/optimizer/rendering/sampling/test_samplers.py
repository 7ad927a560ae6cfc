"""Samplers against the exact solution for Gaussian data, and against loops written from the papers in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from stochastic_samplers import STOCHASTIC
from torch import Tensor

from optimizer.rendering.sampling.noise import Noise
from optimizer.rendering.sampling.samplers import SAMPLERS, Denoise
from studies.spec.samplers import SamplerName

MEAN, DEVIATION = 0.7, 0.5
LEVELS = (14.6, 9.1, 5.5, 3.2, 1.7, 0.9, 0.45, 0.2, 0.08, 0.03, 0.0)
DETERMINISTIC = tuple(name for name in SAMPLERS if name not in STOCHASTIC and name != "ddim_a1111")
Loop = Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]


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
    if name == "lcm":
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
    if name in {"ddim_a1111", "uni_pc", "uni_pc_bh2"}:
        pytest.skip("they end above 0")
    x = start(14.6)
    torch.testing.assert_close(SAMPLERS[name](gaussian, x, (14.6, 0.0), noise_source()), gaussian(x, 14.6))


# ------------------------------------------------------------------------------------ loops from the papers


def ancestral(here: float, there: float) -> tuple[float, float]:
    up = math.sqrt(there**2 * (here**2 - there**2) / here**2)
    return math.sqrt(there**2 - up**2), up


def euler(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """arXiv:2206.00364, algorithm 2 with gamma 0."""
    for here, there in pairwise(levels):
        x = x + (there - here) * (x - denoise(x, here)) / here
    return x


def euler_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        down, up = ancestral(here, there)
        x = x + (down - here) * (x - denoise(x, here)) / here
        if there:
            x = x + up * noise(here, there)
    return x


def heun(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """arXiv:2206.00364, algorithm 1."""
    for here, there in pairwise(levels):
        slope = (x - denoise(x, here)) / here
        ahead = x + (there - here) * slope
        x = ahead
        if there:
            x = x + (there - here) * ((ahead - denoise(ahead, there)) / there - slope) / 2
    return x


def dpm_2(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        middle = math.exp((math.log(here) + math.log(there)) / 2) if there else 0.0
        inner = x + (middle - here) * (x - denoise(x, here)) / here
        x = x + (there - here) * (inner - denoise(inner, middle)) / middle if there else inner
    return x


def dpm_2_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        down, up = ancestral(here, there)
        x = dpm_2(denoise, x, (here, down), noise)
        if there:
            x = x + up * noise(here, there)
    return x


def lms(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """The integral of the polynomial through the last four slopes, by quadrature."""
    slopes: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(levels)):
        slopes = [*slopes, (x - denoise(x, here)) / here][-4:]
        if not there:
            return denoise(x, here)
        known = levels[step + 1 - len(slopes) : step + 1]
        for index, slope in enumerate(slopes):
            ends = [0.0] * len(slopes)
            ends[index] = 1.0
            polynomial = np.polyfit(known, ends, len(known) - 1)
            x = x + integrate.quad(lambda level, p=polynomial: np.polyval(p, level), here, there)[0] * slope
    return x


def dpmpp_2s_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    """arXiv:2211.01095, algorithm 1, in x / alpha, with r = 1/2."""
    for here, there in pairwise(levels):
        down, up = ancestral(here, there)
        if not there:
            return denoise(x, here)
        h = math.log(here) - math.log(down)
        middle = here * math.exp(-h / 2)
        inner = middle / here * x - math.expm1(-h / 2) * denoise(x, here)
        x = down / here * x - math.expm1(-h) * denoise(inner, middle) + up * noise(here, there)
    return x


def dpmpp_sde(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        if not there:
            return denoise(x, here)
        middle = math.sqrt(here * there)
        down, up = ancestral(here, middle)
        inner = down / here * x + (1 - down / here) * denoise(x, here) + up * noise(here, middle)
        down, up = ancestral(here, there)
        x = down / here * x + (1 - down / here) * denoise(inner, middle) + up * noise(here, there)
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """arXiv:2211.01095, algorithm 2, in x / alpha."""
    guesses: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(levels)):
        guesses.append(denoise(x, here))
        used = guesses[-1]
        if step and there:
            r = (math.log(levels[step - 1]) - math.log(here)) / (math.log(here) - math.log(there))
            used = (1 + 1 / (2 * r)) * guesses[-1] - 1 / (2 * r) * guesses[-2]
        x = there / here * x + (1 - there / here) * used
    return x


def sde_multistep(order: int, *, heun: bool) -> Loop:
    """The integral of exp(-2 (end - l)) against a polynomial through the last guesses over lambda, and its noise.

    The midpoint form of second order replaces the integral of the slope by half of that of a constant.
    """

    def loop(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
        guesses: list[Tensor] = []
        for step, (here, there) in enumerate(pairwise(levels)):
            guesses.append(denoise(x, here))
            if not there:
                return guesses[-1]
            h = math.log(here / there)
            used = guesses[-order:][::-1]
            at = [math.log(here / levels[step - back]) for back in range(len(used))]  # lambda, 0 here
            x = math.exp(-2 * h) * x + -math.expm1(-2 * h) * used[0]
            x = x + (correction(used, at, h) if heun else midpoint(used, at, h))
            x = x + there * math.sqrt(-math.expm1(-2 * h)) * noise(here, there)
        raise AssertionError

    def midpoint(used: Sequence[Tensor], at: Sequence[float], h: float) -> Tensor | float:
        return 0.0 if len(used) == 1 else -math.expm1(-2 * h) / 2 * h * (used[0] - used[1]) / -at[1]

    def correction(used: Sequence[Tensor], at: Sequence[float], h: float) -> Tensor | float:
        """Where phi functions take the slope over h as over 2 h, so half of lambda's own derivative is meant twice."""
        if len(used) == 1:
            return 0.0
        z = 2 * h
        first = math.expm1(-z) / z + 1
        slopes = [(used[k] - used[k + 1]) / ((at[k] - at[k + 1]) / h) for k in range(len(used) - 1)]
        if len(slopes) == 1:
            return first * slopes[0]
        near, far = (at[0] - at[1]) / h, (at[1] - at[2]) / h
        bend = (slopes[0] - slopes[1]) / (near + far)
        return first * (slopes[0] + bend * near) - (first / z - 0.5) * bend

    return loop


def lcm(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    """arXiv:2303.01469, algorithm 1."""
    for here, there in pairwise(levels):
        x = denoise(x, here)
        if there:
            x = x + there * noise(here, there)
    return x


def res_multistep(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """arXiv:2308.02157, second order: phi functions of -h, and c2 the place of the last guess in steps."""
    guesses: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(levels)):
        guesses.append(denoise(x, here))
        if step and there:
            h = math.log(here / there)
            c2 = -math.log(levels[step - 1] / here) / h
            phi1 = math.expm1(-h) / -h
            phi2 = (phi1 - 1) / -h
            x = math.exp(-h) * x + h * ((phi1 - phi2 / c2) * guesses[-1] + phi2 / c2 * guesses[-2])
        else:
            x = x + (there - here) * (x - guesses[-1]) / here
    return x


def uni_pc(*, bh2: bool) -> Loop:
    """arXiv:2302.04867, algorithms 5 and 6 for predicted data, in latents of variance 1; lower orders at the end."""

    def loop(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
        levels = [*levels[:-1], 0.001]
        alpha = [1 / math.sqrt(level**2 + 1) for level in levels]
        spread = [level * a for level, a in zip(levels, alpha, strict=True)]
        y, steps = x * alpha[0], len(levels) - 1
        guesses = [denoise(x, levels[0])]
        for step in range(1, steps + 1):
            p = min(3, step, steps + 1 - step)
            h = math.log(levels[step - 1] / levels[step])
            b = math.expm1(-h) if bh2 else -h
            r = [math.log(levels[step - 1] / levels[step - 1 - m]) / h for m in range(1, p)]
            d = [(guesses[-1 - m] - guesses[-1]) / r[m - 1] for m in range(1, p)]
            base = spread[step] / spread[step - 1] * y - alpha[step] * math.expm1(-h) * guesses[-1]
            weights = [0.5] if len(r) == 1 else solve(r, h, b)
            predicted = base - alpha[step] * b * sum(w * e for w, e in zip(weights, d, strict=True))
            if step == steps:
                return predicted / alpha[step]
            guesses.append(denoise(predicted / alpha[step], levels[step]))
            weights = solve([*r, 1.0], h, b) if r else [0.5]
            d.append(guesses[-1] - guesses[-2])
            y = base - alpha[step] * b * sum(w * e for w, e in zip(weights, d, strict=True))
        raise AssertionError

    def solve(r: Sequence[float], h: float, b: float) -> list[float]:
        """R a = phi / B with phi_1 = (exp(-h) - 1) / -h - 1 and phi_{n+1} = phi_n / -h - 1 / (n + 1)!."""
        if not r:
            return []
        phi, right = math.expm1(-h) / -h - 1, []
        for n in range(1, len(r) + 1):
            right.append(phi * math.factorial(n) / b)
            phi = phi / -h - 1 / math.factorial(n + 1)
        found: list[float] = np.linalg.solve(np.array([[each**n for each in r] for n in range(len(r))]), right).tolist()
        return found

    return loop


LOOPS: dict[SamplerName, Loop] = {
    "euler": euler,
    "ddim": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "lms": lms,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": sde_multistep(2, heun=False),
    "dpmpp_2m_sde_heun": sde_multistep(2, heun=True),
    "dpmpp_3m_sde": sde_multistep(3, heun=True),
    "lcm": lcm,
    "res_multistep": res_multistep,
    "uni_pc": uni_pc(bh2=False),
    "uni_pc_bh2": uni_pc(bh2=True),
}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim_a1111"])
@pytest.mark.parametrize("denoise", [gaussian, two_humps])
def test_a_sampler_is_the_loop_of_its_paper(name: SamplerName, denoise: Denoise) -> None:
    for levels in (LEVELS, geometric(5), geometric(2)):
        x = start(levels[0])
        found = SAMPLERS[name](denoise, x, levels, noise_source())
        torch.testing.assert_close(found, LOOPS[name](denoise, x, levels, noise_source()), rtol=1e-6, atol=1e-6)


def test_ddim_of_a1111_is_ddim_in_latents_of_variance_1() -> None:
    """arXiv:2010.02502, eq. 12 with eta 0."""
    levels = LEVELS[:-1]
    y = start(levels[0]) / math.sqrt(levels[0] ** 2 + 1)
    for here, there in pairwise(levels):
        alpha, earlier = 1 / (here**2 + 1), 1 / (there**2 + 1)
        guess = gaussian(y / math.sqrt(alpha), here)
        noise = (y - math.sqrt(alpha) * guess) / math.sqrt(1 - alpha)
        y = math.sqrt(earlier) * guess + math.sqrt(1 - earlier) * noise
    found = SAMPLERS["ddim_a1111"](gaussian, start(levels[0]), levels, noise_source())
    torch.testing.assert_close(found, y)
