"""Merge-like landscapes written by hand, on which samplers are compared without rendering anything.

What they imitate, from sweeps of real merges: the score is a smooth function of the ratios with one or two good
regions; neighbouring blocks are nearly interchangeable, so that depth profiles matter more than single blocks;
beyond some roughness a merge breaks, and all broken merges score about equally badly; a suite of prompts agrees on
most of it and adds noise of its own. The control landscapes have the same parts without any order in depth.

They are no proof: only renders are. Samplers are tuned on other seeds than those that are reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from search_spaces.blocks import Architecture, blocks, section_of, text_encoders

Floats = NDArray[np.float64]

PLACES = (*text_encoders(Architecture.SD15), *blocks(Architecture.SD15))  # 26: what a study of SD1.5 searches
PROMPTS = 16
SMOOTHING_BLOCKS = (1.0, 3.0)  # range of the width over which neighbouring blocks act together
BROKEN_SHARE = (0.15, 0.4)  # of uniformly random merges
PROMPT_NOISE = 0.6  # standard deviation of one prompt's noise, in units of optimum minus median random merge
COARSE = np.array([[1.0], [1.0], *[[1.0], [0.1], [0.1]] * 2])  # of each smooth mode, where sections are nearly enough
PROMPT_SHIFT = 0.05  # standard deviation of a prompt's own optimum about the common one, per smooth mode


def _smooth_modes() -> Floats:
    """Text encoder, M00, and level, slope and bend of IN and OUT: [8, 26], each of largest entry 1."""
    depth = {section: [index for index, place in enumerate(PLACES) if place.startswith(section)] for section in "IO"}
    rows = [np.eye(len(PLACES))[PLACES.index(single)] for single in ("text_encoder", "M00")]
    for members in depth.values():
        t = np.linspace(-1, 1, len(members))
        for wave in (np.ones_like(t), t, np.cos(np.pi * t)):
            row = np.zeros(len(PLACES))
            row[members] = wave
            rows.append(row)
    return np.array(rows)


def _smoothing(width: float) -> Floats:
    """Each block's neighbours in depth, weights of a row summing to one; the text encoder stands alone: [26, 26]."""
    position = np.array([-1e3 if place == "text_encoder" else float(index) for index, place in enumerate(PLACES)])
    weights = np.exp(-0.5 * ((position[:, None] - position[None, :]) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A function of 26 ratios in 0..1, larger is better.

    `value` is the truth, `observe` what a suite of 16 prompts measures of it.
    """

    name: str
    optima: tuple[Floats, ...]  # one or two good regions [26]
    heights: tuple[float, ...]
    shifts: Floats  # [PROMPTS, 26], each prompt's own optimum relative to the common one
    mixing: Floats  # [26, 26]: what acts together
    metric: Floats  # [26, k]: how much each direction matters
    width: float
    strain: Floats  # [m, 26]: differences that break a merge when they grow
    limit: float  # strain at which half is broken
    softness: float
    noise: float = 0.0  # standard deviation of one prompt's noise
    best: float = 1.0  # optimum of `value`
    median: float = 0.0  # of random merges

    def value(self, ratios: Floats) -> Floats:
        """Noise-free mean over the prompts. `ratios`: [..., 26] in 0..1; returns [...]."""
        return np.asarray(self._by_prompt(ratios).mean(axis=-1))

    def observe(self, ratios: Floats, generator: np.random.Generator) -> tuple[float, float]:
        """What one trial measures: the mean over the prompts, and the variance of its noise."""
        noisy = self._by_prompt(ratios) + generator.normal(0.0, self.noise, PROMPTS)
        return float(noisy.mean()), self.noise**2 / PROMPTS

    def regret(self, ratios: Floats) -> float:
        """0 at the optimum, 1 at the median random merge."""
        return float((self.best - self.value(ratios)) / (self.best - self.median))

    def _by_prompt(self, ratios: Floats) -> Floats:
        good = np.full((*ratios.shape[:-1], PROMPTS), -np.inf)
        for optimum, height in zip(self.optima, self.heights, strict=True):
            away = (ratios[..., None, :] - optimum - self.shifts) @ self.mixing.T @ self.metric
            good = np.maximum(good, height * np.exp(-(away**2).sum(axis=-1) / self.width))
        strain = ((ratios @ self.strain.T) ** 2).mean(axis=-1)
        broken = 1 / (1 + np.exp(-np.clip((strain - self.limit) / self.softness, -60, 60)))
        return np.asarray(good * (1 - broken[..., None]))


def make_landscape(seed: int, *, structured: bool, coarse: bool = False) -> Landscape:
    """One landscape, `coarse` if a number for each section is nearly enough.

    Its median random merge and its optimum are worked out numerically (a few seconds).
    """
    generator = np.random.default_rng([seed, int(structured)])
    count = len(PLACES)
    modes = _smooth_modes() * (COARSE if coarse else 1.0)
    if structured:
        mixing = _smoothing(generator.uniform(*SMOOTHING_BLOCKS))
        optima = [np.clip(_profile(generator, modes), 0.05, 0.95) for _ in range(2)]
        weights = np.exp(_profile(generator, modes) * 1.5)
        strain = np.diff(np.eye(count)[1:], axis=0)  # neighbours far apart
        shifts = PROMPT_SHIFT * generator.normal(size=(PROMPTS, len(modes))) @ modes
    else:
        mixing = np.eye(count)
        optima = [generator.uniform(0.05, 0.95, count) for _ in range(2)]
        weights = np.exp(generator.normal(0.0, 1.0, count))
        strain = generator.normal(size=(count - 2, count)) / np.sqrt(count / 2)
        shifts = PROMPT_SHIFT * generator.normal(size=(PROMPTS, count))
    strain = strain - strain.mean(axis=1, keepdims=True)  # uniform merges are not strained
    common = generator.normal(size=(count, 3)) * 0.5  # a few directions in which blocks work together or against
    metric = np.concatenate([np.diag(np.sqrt(weights)), common if not structured else mixing @ common], axis=1)
    random = generator.uniform(size=(4000, count))
    strains = ((random @ strain.T) ** 2).mean(axis=-1)
    draft = Landscape(
        name=f"{'coarse' if coarse else 'depth' if structured else 'control'} {seed}",
        optima=tuple(optima),
        heights=(1.0, generator.uniform(0.6, 0.85)),
        shifts=shifts,
        mixing=mixing,
        metric=metric,
        width=_typical_distance(random, optima[0], mixing, metric),
        strain=strain,
        limit=float(np.quantile(strains, 1 - generator.uniform(*BROKEN_SHARE))),
        softness=float(strains.std() * 0.15),
    )
    return _calibrated(draft, random)


def _profile(generator: np.random.Generator, modes: Floats) -> Floats:
    """A random smooth depth profile about one half: [26]."""
    scales = np.array([0.25, 0.25, *([0.2, 0.2, 0.12] * 2)])
    level = generator.normal(0.5, 0.12)
    return np.asarray(level + (generator.normal(size=len(modes)) * scales) @ modes)


def _typical_distance(random: Floats, optimum: Floats, mixing: Floats, metric: Floats) -> float:
    """A median random merge's squared distance: unbroken, it reaches about a third of the height."""
    return float(np.median((((random - optimum) @ mixing.T @ metric) ** 2).sum(axis=-1)))


def _calibrated(draft: Landscape, random: Floats) -> Landscape:
    """With its optimum, the median of random merges and noise in proportion."""
    values = draft.value(random)
    starts = [random[index] for index in np.argsort(values)[-6:]] + list(draft.optima)
    starts += [np.full(len(PLACES), level) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
    best = max(-_descend(draft, start) for start in starts)
    median = float(np.median(values))
    fields = {name: getattr(draft, name) for name in draft.__dataclass_fields__}
    return Landscape(**fields | {"best": best, "median": median, "noise": PROMPT_NOISE * (best - median)})


def _descend(landscape: Landscape, start: Floats) -> float:
    step = 1e-5

    def loss(ratios: Floats) -> tuple[float, Floats]:
        around = step * np.eye(len(ratios))
        shifted = landscape.value(np.concatenate([ratios + around, ratios - around, ratios[None]]))
        gradient = (shifted[: len(ratios)] - shifted[len(ratios) : -1]) / (2 * step)
        return -float(shifted[-1]), -gradient

    return float(minimize(loss, start, jac=True, bounds=[(0.0, 1.0)] * len(start), method="L-BFGS-B").fun)


def sections() -> tuple[str, ...]:
    """The section of each place, for reading results."""
    return tuple("TEXT" if place == "text_encoder" else section_of(place) for place in PLACES)
