"""Samplers: from noise to latents along given noise levels, in the form of k-diffusion.

Notation: D(x, sigma) is the denoiser, which predicts clean latents; s_i the levels, descending to 0;
lambda = -log(sigma) half the logarithm of the signal-to-noise ratio; h = lambda_{i+1} - lambda_i. The probability flow
is dx / d sigma = (x - D) / sigma (Karras et al., arXiv:2206.00364, eq. 1); in lambda it is linear in x, and its exact
solution over a step of constant D is

    x' = exp(-h) x + (1 - exp(-h)) D = (s' / s) x + (1 - s' / s) D        (DPM-Solver++, arXiv:2211.01095, eq. 9)

A step to level 0 takes the denoised latents, which both forms have as their limit; only LMS of A1111 does not. Every
sampler has one call shape:

    denoise: D(x, sigma) for latents [n, c, h, w] float32 and a level
    x: latents at the first level [n, c, h, w] float32
    sigmas: the levels
    noise: unit noise [n, c, h, w] for a step from a level to a lower one

and returns latents at the last level. Levels are numbers of the host, so that no step waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from optimizer.rendering.sampling.noise import Noise

Denoise = Callable[[Tensor, float], Tensor]
Sampler = Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]

LMS_ORDER = 4
UNI_PC_ORDER = 3
UNI_PC_END = 0.001  # the level at which ComfyUI's UniPC ends in place of 0, whose lambda has no end


# ------------------------------------------------------------------------------------------ Euler and Runge-Kutta


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise) -> Tensor:
    """Take Euler steps: Karras et al., algorithm 2 without its correction. DDIM is the same (arXiv:2010.02502)."""
    for here, there in pairwise(sigmas):
        x = _euler_step(x, denoise(x, here), here, there)
    return x


def sample_ddim_a1111(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take DDIM's steps, and return what A1111 does: latents that still have the last level's noise, of variance 1."""
    return sample_euler(denoise, x, sigmas, noise) / math.sqrt(sigmas[-1] ** 2 + 1)


def sample_euler_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take Euler steps below each level, and add noise up to it: ancestral sampling (arXiv:2006.11239)."""
    for here, there in pairwise(sigmas):
        down, up = _ancestral(here, there)
        x = _with_noise(_euler_step(x, denoise(x, here), here, down), up, noise, here, there)
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise) -> Tensor:
    """Average the slopes at both ends of a step: Karras et al., algorithm 1 without noise."""
    for here, there in pairwise(sigmas):
        slope = (x - denoise(x, here)) / here
        ahead = x + slope * (there - here)
        if there > 0:
            slope = (slope + (ahead - denoise(ahead, there)) / there) / 2
        x = x + slope * (there - here)
    return x


def sample_dpm_2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise) -> Tensor:
    """Take the slope in the middle of a step in lambda: DPM-Solver-2, arXiv:2206.00927, in the form of k-diffusion."""
    for here, there in pairwise(sigmas):
        x = _midpoint_step(denoise, x, here, there)
    return x


def sample_dpm_2_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take the steps of `sample_dpm_2` below each level, and add noise up to it."""
    for here, there in pairwise(sigmas):
        down, up = _ancestral(here, there)
        x = _with_noise(_midpoint_step(denoise, x, here, down), up, noise, here, there)
    return x


def sample_lms(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise, *, down_to_0: bool = False
) -> Tensor:
    """Extrapolate the last four slopes by a polynomial in sigma: the Adams-Bashforth method on uneven steps.

    Args:
        down_to_0: take such a step to level 0, too, as k-diffusion and so A1111 does.
    """
    slopes: list[Tensor] = []  # the latest first
    for step, (here, there) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, here)
        if there == 0 and not down_to_0:
            return denoised
        slopes = [(x - denoised) / here, *slopes][:LMS_ORDER]
        weights = _integrals([sigmas[step - back] for back in range(len(slopes))], here, there)
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


# ------------------------------------------------------------------------------------------ DPM-Solver++


def sample_dpmpp_2s_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take DPM-Solver++(2S) steps (arXiv:2211.01095, algorithm 1, r = 1/2) below each level, and add noise up to it."""
    for here, there in pairwise(sigmas):
        down, up = _ancestral(here, there)
        denoised = denoise(x, here)
        if down > 0:
            middle = math.sqrt(here * down)
            denoised = denoise(exponential_step(x, denoised, here, middle), middle)
        x = _with_noise(exponential_step(x, denoised, here, down), up, noise, here, there)
    return x


def middle_in_lambda(here: float, there: float) -> float:
    """Return the level in the middle of lambda, in float32 as both programs: a Brownian path shows the last bits."""
    start, end = (-torch.tensor(sigma).log() for sigma in (here, there))
    return float((-(start + 0.5 * (end - start))).exp())


def sample_dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    middle_of: Callable[[float, float], float] = middle_in_lambda,
) -> Tensor:
    """Take SDE-DPM-Solver++ steps of second order with one stage more, at the middle in lambda (r = 1/2).

    Args:
        middle_of: returns the level in the middle of two, rounded as the program rounds it.
    """
    for here, there in pairwise(sigmas):
        denoised = denoise(x, here)
        if there == 0:
            return denoised
        middle = middle_of(here, there)
        down, up = _ancestral(here, middle)
        inner = _with_noise(exponential_step(x, denoised, here, down), up, noise, here, middle)
        denoised = denoise(inner, middle)
        down, up = _ancestral(here, there)
        x = _with_noise(exponential_step(x, denoised, here, down), up, noise, here, there)
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise) -> Tensor:
    """Extrapolate the last two denoised latents: DPM-Solver++(2M), arXiv:2211.01095, algorithm 2."""
    before: tuple[Tensor, float] | None = None
    for here, there in pairwise(sigmas):
        denoised = extrapolated = denoise(x, here)
        if before is not None and there > 0:
            last, last_sigma = before
            ratio = math.log(last_sigma / here) / math.log(here / there)
            extrapolated = denoised + (denoised - last) / (2 * ratio)
        x = exponential_step(x, extrapolated, here, there)
        before = denoised, here
    return x


def sample_dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, heun: bool = False
) -> Tensor:
    """Take SDE-DPM-Solver++(2M) steps: arXiv:2211.01095, section 6; its noise undoes half of each step.

    Args:
        heun: weigh the difference of denoised latents by the exact integral, instead of by half of the first one's.
    """
    before: tuple[Tensor, float] | None = None
    for here, there in pairwise(sigmas):
        denoised = denoise(x, here)
        if there == 0:
            return denoised
        h = math.log(here / there)
        x = _sde_step(x, denoised, here, there)
        if before is not None:
            last, last_h = before
            weight = _phi_2(2 * h) if heun else -math.expm1(-2 * h) / 2
            x = x + weight * (h / last_h) * (denoised - last)
        x = x + _sde_noise(noise, here, there)
        before = denoised, h
    return x


def sample_dpmpp_3m_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take steps of SDE-DPM-Solver++ with the divided differences of three denoised latents, as k-diffusion does."""
    before: list[tuple[Tensor, float]] = []  # denoised latents and the step that followed, the latest first
    for here, there in pairwise(sigmas):
        denoised = denoise(x, here)
        if there == 0:
            return denoised
        h = math.log(here / there)
        x = _sde_step(x, denoised, here, there) + _multistep_correction(denoised, before, h)
        x = x + _sde_noise(noise, here, there)
        before = [(denoised, h), *before][:2]
    return x


def _multistep_correction(denoised: Tensor, before: Sequence[tuple[Tensor, float]], h: float) -> Tensor | float:
    """Return the terms of first and second derivative of `sample_dpmpp_3m_sde`, as far as there are latents for it."""
    if not before:
        return 0.0
    (last, last_h), *older = before
    slope = (denoised - last) / (last_h / h)
    if not older:
        return _phi_2(2 * h) * slope
    ((oldest, oldest_h),) = older
    near, far = last_h / h, oldest_h / h
    bend = (slope - (last - oldest) / far) / (near + far)
    return _phi_2(2 * h) * (slope + near * bend) - _phi_3(2 * h) * bend


# ------------------------------------------------------------------------------------------ others


def sample_lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Denoise, and add noise of the next level: multistep consistency sampling, arXiv:2303.01469, algorithm 1."""
    for here, there in pairwise(sigmas):
        x = _with_noise(denoise(x, here), there, noise, here, there)
    return x


def sample_res_multistep(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise) -> Tensor:
    """Take second-order steps of an exponential integrator with the last two denoised latents: arXiv:2308.02157."""
    before: tuple[Tensor, float] | None = None
    for here, there in pairwise(sigmas):
        denoised = denoise(x, here)
        if before is None or there == 0:
            x = _euler_step(x, denoised, here, there)
        else:
            last, last_sigma = before
            h = math.log(here / there)
            ratio = math.log(last_sigma / here) / h
            x = exponential_step(x, denoised, here, there) + (_phi_2(h) / ratio) * (denoised - last)
        before = denoised, here
    return x


def sample_uni_pc(denoise: Denoise, x: Tensor, sigmas: Sequence[float], _noise: Noise, *, bh2: bool = False) -> Tensor:
    """Predict with up to three denoised latents and correct with one more: UniPC, arXiv:2302.04867, algorithm 8.

    It steps in x / sqrt(1 + sigma**2), where its exponential steps are the same as here.

    Args:
        bh2: the paper's B(h) = exp(h) - 1 in place of B(h) = h.
    """
    sigmas = [*sigmas[:-1], sigmas[-1] or UNI_PC_END]
    steps = len(sigmas) - 1
    order = max(1, min(UNI_PC_ORDER, steps - 1))
    points = [(denoise(x, sigmas[0]), sigmas[0])]  # denoised latents and their levels, the latest first
    for step in range(1, steps + 1):
        here, there = sigmas[step - 1], sigmas[step]
        start = exponential_step(x, points[0][0], here, there)
        rung = min(order, step, steps + 1 - step)
        differences, ratios = _differences(points[:rung], here, there)
        h = math.log(here / there)
        predicted = start + _unified(differences, _predictor(ratios, h, bh2=bh2), h, bh2=bh2)
        if step == steps:
            return predicted
        denoised = denoise(predicted, there)
        weights = _corrector(ratios, h, bh2=bh2)
        x = start + _unified([*differences, denoised - points[0][0]], weights, h, bh2=bh2)
        points = [(denoised, there), *points][:order]
    return x


def sample_uni_pc_a1111(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Take UniPC's steps, and return what A1111 does: latents that still have the last level's noise, of variance 1."""
    return sample_uni_pc(denoise, x, sigmas, noise) / math.sqrt(sigmas[-1] ** 2 + 1)


def _differences(points: Sequence[tuple[Tensor, float]], here: float, there: float) -> tuple[list[Tensor], list[float]]:
    """Return divided differences of denoised latents to the latest, and their places in units of the step."""
    (latest, _), *older = points
    h = math.log(here / there)
    ratios = [math.log(here / sigma) / h for _, sigma in older]
    return [(denoised - latest) / ratio for (denoised, _), ratio in zip(older, ratios, strict=True)], ratios


def _unified(differences: Sequence[Tensor], weights: Sequence[float], h: float, *, bh2: bool) -> Tensor | float:
    """Return B(h) times the weighted differences; -B(-h), because the denoised latents are predicted."""
    scale = -math.expm1(-h) if bh2 else h
    return sum((scale * weight) * each for weight, each in zip(weights, differences, strict=True))


def _predictor(ratios: Sequence[float], h: float, *, bh2: bool) -> list[float]:
    """Return the predictor's weights; of one difference always 1/2."""
    return [0.5] if len(ratios) == 1 else _unified_weights(ratios, h, bh2=bh2)


def _corrector(ratios: Sequence[float], h: float, *, bh2: bool) -> list[float]:
    """Return the corrector's weights; of one difference always 1/2."""
    return [0.5] if not ratios else _unified_weights([*ratios, 1.0], h, bh2=bh2)


def _unified_weights(ratios: Sequence[float], h: float, *, bh2: bool) -> list[float]:
    """Solve R(h) a B(h) = phi(h): arXiv:2302.04867, theorem 3.1."""
    if not ratios:
        return []
    z = -h
    scale = math.expm1(z) if bh2 else z
    phi, right = math.expm1(z) / z - 1, list[float]()
    for power in range(1, len(ratios) + 1):
        right.append(phi * math.factorial(power) / scale)
        phi = phi / z - 1 / math.factorial(power + 1)
    matrix = np.vander(ratios, increasing=True).T
    weights: list[float] = np.linalg.solve(matrix, right).tolist()
    return weights


# ------------------------------------------------------------------------------------------ parts of steps


def _euler_step(x: Tensor, denoised: Tensor, here: float, there: float) -> Tensor:
    return x + ((x - denoised) / here) * (there - here)


def exponential_step(x: Tensor, denoised: Tensor, here: float, there: float) -> Tensor:
    """Step between two levels with the denoised latents held constant."""
    return (there / here) * x + (1 - there / here) * denoised


def _midpoint_step(denoise: Denoise, x: Tensor, here: float, there: float) -> Tensor:
    denoised = denoise(x, here)
    if there == 0:
        return _euler_step(x, denoised, here, there)
    middle = math.sqrt(here * there)
    ahead = _euler_step(x, denoised, here, middle)
    return x + ((ahead - denoise(ahead, middle)) / middle) * (there - here)


def _ancestral(here: float, there: float) -> tuple[float, float]:
    """Return the level to step down to, and the standard deviation of the noise that leads up from it to `there`."""
    up = min(there, there * math.sqrt(max(here**2 - there**2, 0)) / here)
    return math.sqrt(max(there**2 - up**2, 0)), up


def _with_noise(x: Tensor, scale: float, noise: Noise, here: float, there: float) -> Tensor:
    """Add noise for the step between two levels; none is drawn for a step to 0."""
    return x + noise(here, there) * scale if there > 0 else x


def _sde_step(x: Tensor, denoised: Tensor, here: float, there: float) -> Tensor:
    """Step with eta = 1: exp(-2 h) of the latents stays, which is the square of what an exponential step keeps."""
    kept = (there / here) ** 2
    return kept * x + (1 - kept) * denoised


def _sde_noise(noise: Noise, here: float, there: float) -> Tensor:
    return noise(here, there) * (there * math.sqrt(1 - (there / here) ** 2))


def _phi_2(h: float) -> float:
    """Return the integral of a step's weight against a slope in lambda, (exp(-h) - 1) / h + 1."""
    return math.expm1(-h) / h + 1


def _phi_3(h: float) -> float:
    """Return the same for a second derivative."""
    return _phi_2(h) / h - 0.5


def _integrals(places: Sequence[float], start: float, end: float) -> list[float]:
    """Return the integral from start to end of each Lagrange polynomial over these places."""
    weights = []
    for index, place in enumerate(places):
        others = [other for at, other in enumerate(places) if at != index]
        polynomial = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
        integral = polynomial.integ()
        weights.append(float(integral(end) - integral(start)) / math.prod(place - other for other in others))
    return weights
