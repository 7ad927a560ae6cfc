"""Sampling written from the papers' and the programs' formulas in float64: levels, times, noise and loops of steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torchsde
from scipy import integrate, stats
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (noisy latents, level) -> clean ones
Noise = Callable[[float, float], Tensor]  # unit noise for a step from a level to a lower one
Loop = Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]

# ------------------------------------------------------------------------------------ loops of steps


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


def lms(*, down_to_0: bool) -> Loop:
    """Integrate the polynomial through the last four slopes, by quadrature."""

    def loop(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
        slopes: list[Tensor] = []
        for step, (here, there) in enumerate(pairwise(levels)):
            guess = denoise(x, here)
            if not there and not down_to_0:
                return guess
            slopes = [*slopes, (x - guess) / here][-4:]
            known = levels[step + 1 - len(slopes) : step + 1]
            for index, slope in enumerate(slopes):
                ends = [0.0] * len(slopes)
                ends[index] = 1.0
                polynomial = np.polyfit(known, ends, len(known) - 1)
                x = x + integrate.quad(lambda level, p=polynomial: np.polyval(p, level), here, there)[0] * slope
        return x

    return loop


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
    """Integrate exp(-2 (end - l)) against a polynomial through the last guesses over lambda, and add its noise.

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
        return x

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


def uni_pc(*, bh2: bool = False, scaled: bool = False) -> Loop:
    """arXiv:2302.04867, algorithms 5 and 6 for predicted data, in latents of variance 1; lower orders at the end.

    Args:
        scaled: return the latents of variance 1.
    """

    def loop(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
        levels = [*levels[:-1], levels[-1] or 0.001]
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
                return predicted if scaled else predicted / alpha[step]
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


def ddim_a1111(denoise: Denoise, x: Tensor, levels: Sequence[float], _noise: Noise) -> Tensor:
    """arXiv:2010.02502, eq. 12 with eta 0, in latents of variance 1."""
    y = x / math.sqrt(levels[0] ** 2 + 1)
    for here, there in pairwise(levels):
        alpha, earlier = 1 / (here**2 + 1), 1 / (there**2 + 1)
        guess = denoise(y / math.sqrt(alpha), here)
        noise = (y - math.sqrt(alpha) * guess) / math.sqrt(1 - alpha)
        y = math.sqrt(earlier) * guess + math.sqrt(1 - earlier) * noise
    return y


LOOPS: dict[str, Loop] = {
    "euler": euler,
    "ddim": euler,
    "ddim_a1111": ddim_a1111,
    "ddim_comfyui": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "lms": lms(down_to_0=False),
    "lms_a1111": lms(down_to_0=True),
    "lms_comfyui": lms(down_to_0=False),
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": sde_multistep(2, heun=False),
    "dpmpp_2m_sde_heun": sde_multistep(2, heun=True),
    "dpmpp_3m_sde": sde_multistep(3, heun=True),
    "lcm": lcm,
    "lcm_a1111": lcm,
    "lcm_comfyui": lcm,
    "res_multistep": res_multistep,
    "uni_pc": uni_pc(),
    "uni_pc_a1111": uni_pc(scaled=True),
    "uni_pc_comfyui": uni_pc(),
    "uni_pc_bh2": uni_pc(bh2=True),
}


# ------------------------------------------------------------------------------------ loops of flows
# x = (1 - s) x0 + s n; alpha = 1 - s, lambda = log(alpha / s). Loops without noise are those above.


def flow_lambda(level: float) -> float:
    return math.log((1 - level) / level)


def flow_renoised(x: Tensor, down: float, there: float, noise: Tensor) -> Tensor:
    """Return x at the level `there` from x at the level `down`, so that alpha and the variance are those of `there`."""
    ratio = (1 - there) / (1 - down)
    return ratio * x + math.sqrt(there**2 - (ratio * down) ** 2) * noise


def flow_euler_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        guess = denoise(x, here)
        if not there:
            return guess
        down = there**2 / here
        x = flow_renoised(x + (down - here) * (x - guess) / here, down, there, noise(here, there))
    raise AssertionError


def flow_dpm_2_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        if not there:
            return denoise(x, here)
        down = there**2 / here
        middle = math.exp((math.log(here) + math.log(down)) / 2)
        inner = x + (middle - here) * (x - denoise(x, here)) / here
        x = x + (down - here) * (inner - denoise(inner, middle)) / middle
        x = flow_renoised(x, down, there, noise(here, there))
    raise AssertionError


def flow_dpmpp_2s_ancestral(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        guess = denoise(x, here)
        if not there:
            return guess
        down = there**2 / here
        middle = 1 / (1 + math.exp((flow_lambda(here) + flow_lambda(down)) / 2)) if here < 1 else 0.9999
        guess = denoise(middle / here * x + (1 - middle / here) * guess, middle)
        x = flow_renoised(down / here * x + (1 - down / here) * guess, down, there, noise(here, there))
    raise AssertionError


def flow_lcm(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    for here, there in pairwise(levels):
        x = denoise(x, here)
        if there:
            x = (1 - there) * x + there * noise(here, there)
    return x


def flow_dpmpp_sde(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
    """ComfyUI's sample_dpmpp_sde with eta 1 and r = 1/2: ancestral steps of exp(-lambda), latents times alpha."""
    for here, there in pairwise(levels):
        guess = denoise(x, here)
        if not there:
            return guess
        begin, end = flow_lambda(here), flow_lambda(there)
        half = (begin + end) / 2
        middle = 1 / (1 + math.exp(half))
        inner = guess
        for level, at in ((middle, half), (there, end)):
            down, up = ancestral(math.exp(-begin), math.exp(-at))
            h = -math.log(down) - begin
            alpha = 1 - level
            stepped = alpha / (1 - here) * math.exp(-h) * x - alpha * math.expm1(-h) * guess
            inner = stepped + alpha * up * noise(here, level)
            if level == middle:
                guess = denoise(inner, middle)
        x = inner
    raise AssertionError


def flow_sde_multistep(order: int, *, heun: bool) -> Loop:
    """ComfyUI's forms with eta 1: x' = (s' / s) exp(-h) x + alpha' (1 - exp(-2 h)) D, a correction, and noise."""

    def loop(denoise: Denoise, x: Tensor, levels: Sequence[float], noise: Noise) -> Tensor:
        guesses: list[Tensor] = []
        steps: list[float] = []
        for here, there in pairwise(levels):
            guesses = [denoise(x, here), *guesses][:order]
            if not there:
                return guesses[0]
            h = flow_lambda(there) - flow_lambda(here)
            alpha = 1 - there
            x = there / here * math.exp(-h) * x - alpha * math.expm1(-2 * h) * guesses[0]
            x = x + alpha * correction(guesses, steps, h)
            x = x + there * math.sqrt(-math.expm1(-2 * h)) * noise(here, there)
            steps = [h, *steps][: order - 1]
        raise AssertionError

    def correction(guesses: Sequence[Tensor], steps: Sequence[float], h: float) -> Tensor | float:
        if not steps:
            return 0.0
        phi_2 = math.expm1(-2 * h) / (2 * h) + 1
        first = (guesses[0] - guesses[1]) / (steps[0] / h)
        if not heun:
            return -math.expm1(-2 * h) / 2 * first
        if len(steps) == 1:
            return phi_2 * first
        near, far = steps[0] / h, steps[1] / h
        bend = (first - (guesses[1] - guesses[2]) / far) / (near + far)
        return phi_2 * (first + near * bend) - (phi_2 / (2 * h) - 0.5) * bend

    return loop


FLOW_LOOPS: dict[str, Loop] = LOOPS | {
    "euler_ancestral": flow_euler_ancestral,
    "dpm_2_ancestral": flow_dpm_2_ancestral,
    "dpmpp_2s_ancestral": flow_dpmpp_2s_ancestral,
    "lcm": flow_lcm,
    "lcm_comfyui": flow_lcm,
    "dpmpp_sde": flow_dpmpp_sde,
    "dpmpp_2m_sde": flow_sde_multistep(2, heun=False),
    "dpmpp_2m_sde_heun": flow_sde_multistep(2, heun=True),
    "dpmpp_3m_sde": flow_sde_multistep(3, heun=True),
}

# ------------------------------------------------------------------------------------ levels and times

TABLE = np.sqrt(1 / np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) - 1)  # [1000], ascending
# KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS of ComfyUI; `discard_next_to_last_sigma` of A1111's samplers, and what is
# ComfyUI's alone.
PASSING_OVER = {
    "comfyui": {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"},
    "a1111": {"dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde", "uni_pc_bh2"},
}


def log_interpolated(places: np.ndarray, table: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.exp(np.interp(places, np.arange(len(table)), np.log(table)))
    return found


def schedule_levels(schedule: str, steps: int, table: np.ndarray) -> list[float]:
    """Return the levels [steps + 1] of a schedule over a table, 0 at the end."""
    low, high, last = table[0], table[-1], len(table) - 1
    match schedule:
        case "normal":
            found = log_interpolated(np.linspace(last, 0, steps), table)
        case "sgm_uniform":
            found = log_interpolated(np.linspace(last, 0, steps + 1)[:-1], table)
        case "simple":
            found = table[[last - int(step * len(table) / steps) for step in range(steps)]]
        case "karras":
            found = (high ** (1 / 7) + np.linspace(0, 1, steps) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        case "exponential":
            found = np.geomspace(high, low, steps)
        case "ddim_uniform":
            found = table[1 :: len(table) // steps][::-1]
        case _:
            raise ValueError(schedule)
    return [*found.tolist(), 0.0]


def levels_of(sampler: str, schedule: str, steps: int, program: str) -> list[float]:
    """Return the levels that a sampler of a program passes through."""
    if sampler == "ddim_a1111":
        times = np.unique(np.clip(np.arange(0, 1000, 1000 // steps) + 1, 0, 999))
        return [*TABLE[times][::-1]]
    if sampler == "uni_pc_a1111":
        count = len(range(0, 1000, 1000 // steps))  # of the times that A1111 makes for DDIM and counts for UniPC
        log_alpha = np.interp(np.linspace(999, 0, count + 1), np.arange(1000), -np.log(TABLE**2 + 1) / 2)
        return [*np.sqrt(np.exp(-2 * log_alpha) - 1)]
    over = sampler in PASSING_OVER[program]
    found = schedule_levels(schedule, steps + over, TABLE[19::20] if sampler == "lcm_a1111" else TABLE)
    return [*found[:-2], 0.0] if over else found


def shifted(share: np.ndarray, shift: float) -> np.ndarray:
    """arXiv:2403.03206, eq. 23, as ComfyUI's time_snr_shift."""
    return shift * share / (1 + (shift - 1) * share)


def flow_levels_of(sampler: str, schedule: str, steps: int, shift: float) -> list[float]:
    """Return the levels that a sampler of ComfyUI passes through with ModelSamplingSD3.

    Its `normal` schedule takes 1000 times the lowest level for that level's time, though it is shifted already.
    """
    table = shifted(np.arange(1, 1001) / 1000, shift)
    over = sampler.removesuffix("_comfyui") in PASSING_OVER["comfyui"]
    steps += over
    match schedule:
        case "normal":
            found = [*shifted(np.linspace(1, table[0], steps), shift).tolist(), 0.0]
        case "sgm_uniform":
            found = [*shifted(np.linspace(1, table[0], steps + 1)[:-1], shift).tolist(), 0.0]
        case "beta":
            places = np.rint(999 * stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)).astype(int)
            found = [*(float(table[place]) for place in dict.fromkeys(places.tolist())), 0.0]
        case "kl_optimal":
            part = np.arange(steps) / (steps - 1)
            found = [1.0, *np.tan(part * math.atan(table[0]) + (1 - part) * math.atan(1)).tolist()[1:], 0.0]
        case _:
            found = schedule_levels(schedule, steps, table)
    return [*found[:-2], 0.0] if over else found


def time_of(sampler: str, level: float, program: str) -> float:
    """Return the time that the U-Net is given for a level."""
    if sampler == "lcm_a1111":
        return 19.0 + 20 * np.abs(np.log(TABLE[19::20]) - math.log(level)).argmin()
    if sampler == "uni_pc_a1111":
        return float(np.interp(math.log(level**2 + 1), np.log(TABLE**2 + 1), np.arange(1000)))
    if program == "comfyui":
        return float(np.abs(np.log(TABLE) - math.log(level)).argmin())
    return float(np.interp(math.log(level), np.log(TABLE), np.arange(1000)))


# ------------------------------------------------------------------------------------ from noise to latents


def sampled(
    model: Callable[[Tensor, float], Tensor],
    *,
    sampler: str,
    schedule: str,
    steps: int,
    program: str,
    seed: int,
    shape: Sequence[int],
    path_levels: Sequence[float],
    predicts_v: bool = False,
) -> Tensor:
    """Sample one item's latents as a program does.

    Args:
        model: (latents of variance 1 [1, c, h, w] float64, time) -> the guided output.
        path_levels: the levels in float32 at which a Brownian path is asked, whose last bits show in its increments.
    """
    levels = levels_of(sampler, schedule, steps, program)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator).double()
    whole = sampler in {"ddim_a1111", "uni_pc_a1111"} or (program == "comfyui" and levels[0] > TABLE[-1] * (1 - 1e-6))
    x = x * (math.sqrt(levels[0] ** 2 + 1) if whole else levels[0])
    if program == "comfyui":
        generator = torch.Generator().manual_seed(seed)
    noise = brownian_noise(path_levels, seed, shape) if "_sde" in sampler else drawn_noise(generator, shape)
    return LOOPS[sampler](denoiser(model, sampler, program, predicts_v=predicts_v), x, levels, noise)


def denoiser(
    model: Callable[[Tensor, float], Tensor], sampler: str, program: str, *, predicts_v: bool = False
) -> Denoise:
    """Return the clean latents by the output of a U-Net for latents of variance 1."""

    def denoise(x: Tensor, level: float) -> Tensor:
        time = time_of(sampler, level, program)
        output = model(x / math.sqrt(level**2 + 1), time)
        clean = x / (level**2 + 1) - output * level / math.sqrt(level**2 + 1) if predicts_v else x - level * output
        if sampler != "lcm_a1111":
            return clean
        late = 10 * time
        return (0.25 * x + late * math.sqrt(late**2 + 0.25) * clean) / (late**2 + 0.25)

    return denoise


def second_levels_of(
    sampler: str, schedule: str, steps: int, program: str, strength: float
) -> tuple[float, list[float]]:
    """Return the level to which a second pass noises its latents, and the levels that its sampler passes through.

    A1111: setup_img2img_steps and sample_img2img; its DDIM and UniPC count times. ComfyUI: KSampler.set_steps.
    """
    if program == "comfyui":
        total = steps if strength > 0.9999 else int(steps / strength)
        levels = levels_of(sampler, schedule, total, program)[-(steps + 1) :]
        return levels[0], levels
    total = int(steps / min(strength, 0.999))
    if sampler not in {"ddim_a1111", "uni_pc_a1111"}:
        levels = levels_of(sampler, schedule, total, program)[total - steps :]
        return levels[0], levels
    times = np.unique(np.clip(np.arange(0, 1000, 1000 // total) + 1, 0, 999))
    noised, begin = TABLE[times[steps - 1]], times[steps - 2]
    if sampler == "ddim_a1111":
        return noised, [*TABLE[times[: steps - 1]][::-1]]
    log_alpha = np.interp(np.linspace(begin, 0, steps), np.arange(1000), -np.log(TABLE**2 + 1) / 2)
    return noised, [*np.sqrt(np.exp(-2 * log_alpha) - 1)]


def sampled_again(
    model: Callable[[Tensor, float], Tensor],
    latents: Tensor,
    *,
    sampler: str,
    schedule: str,
    steps: int,
    strength: float,
    program: str,
    seed: int,
    path_levels: Sequence[float],
) -> Tensor:
    """Sample the second pass of one item as a program does, from latents [1, c, h, w] float64.

    Args:
        model, path_levels: as for `sampled`.
    """
    noised, levels = second_levels_of(sampler, schedule, steps, program, strength)
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(*latents.shape, generator=generator).double()
    if sampler in {"ddim_a1111", "uni_pc_a1111"}:  # which work with latents of variance 1
        alpha, alpha_read = (1 / (level**2 + 1) for level in (noised, levels[0]))
        x = (math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * unit) / math.sqrt(alpha_read)
    else:
        whole = program == "comfyui" and levels[0] > TABLE[-1] * (1 - 1e-6)
        x = latents + (math.sqrt(noised**2 + 1) if whole else noised) * unit
    if program == "comfyui":
        generator = torch.Generator().manual_seed(seed)
    shape = tuple(latents.shape)
    noise = brownian_noise(path_levels, seed, shape) if "_sde" in sampler else drawn_noise(generator, shape)
    return LOOPS[sampler](denoiser(model, sampler, program), x, levels, noise)


def sampled_flow(
    model: Callable[[Tensor, float], Tensor],
    *,
    sampler: str,
    schedule: str,
    steps: int,
    program: str,
    seed: int,
    shape: Sequence[int],
    path_levels: Sequence[float],
    shift: float,
) -> Tensor:
    """Sample one item's latents of a model that follows a flow as ComfyUI does, with a program's noise of later steps.

    Args:
        model: (latents [1, c, h, w] float64, time) -> the guided output.
        path_levels: as for `sampled`.
    """
    levels = flow_levels_of(sampler, schedule, steps, shift)
    generator = torch.Generator().manual_seed(seed)
    x = levels[0] * torch.randn(*shape, generator=generator).double()
    if program == "comfyui":
        generator = torch.Generator().manual_seed(seed)
    noise = drawn_noise(generator, shape)
    if "_sde" in sampler:
        time = torch.tensor(0.9999 * 1000) / 1000  # in float32, whose last bits show near level 1
        begin = float(shift * time / (1 + (shift - 1) * time))
        below_1 = torch.tensor([begin if level == 1 else level for level in path_levels if level > 0])
        middles = below_1[:-1].logit().neg(), below_1[1:].logit().neg()
        asked = torch.cat([below_1, (middles[0] + (middles[1] - middles[0]) * 0.5).neg().sigmoid()])
        noise = brownian_noise(path_levels, seed, shape, asked)
        levels = [begin if level == 1 else level for level in levels]
    return FLOW_LOOPS[sampler](lambda x, level: x - level * model(x, 1000 * level), x, levels, noise)


def drawn_noise(generator: torch.Generator, shape: Sequence[int]) -> Noise:
    return lambda _high, _low: torch.randn(*shape, generator=generator).double()


def brownian_noise(levels: Sequence[float], seed: int, shape: Sequence[int], asked: Tensor | None = None) -> Noise:
    """Return the increments of torchsde's tree as BrownianTreeNoiseSampler of k-diffusion takes them, in float32.

    Args:
        levels: in float32; one that is asked for is the nearest of them, or of the middles of two in their logarithm.
        asked: levels in float32 that are asked for in place of these.
    """
    known = torch.tensor(levels)
    above_0 = known[known > 0]
    logs = above_0.log()
    middles = (-(-logs[:-1] + 0.5 * (logs[:-1] - logs[1:]))).exp()
    times = torch.cat([above_0, middles]) if asked is None else asked
    tree = torchsde.BrownianTree(above_0.min(), torch.zeros(*shape), above_0.max(), entropy=seed)

    def noise(here: float, there: float) -> Tensor:
        start, end = (times[(times / level).log().abs().argmin()] for level in (here, there))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a time beyond an end that was rounded
            upwards: Tensor = tree(end, start)
        return (-upwards / (start - end).sqrt()).double()

    return noise
