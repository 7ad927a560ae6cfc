"""Hand-written, merge-like landscapes, on which samplers are compared without rendering.

They imitate what sweeps of real merges show. The score is a smooth function of the ratios with one or two good regions.
Neighbouring blocks are almost interchangeable, so depth profiles matter more than single blocks. A merge that is too
rough breaks, and all broken merges have about the same bad score. The prompts of a suite mostly agree, and each adds
its own noise. The control landscapes have the same parts, but no order in depth.

They prove nothing about real merges; only renders do. The reported seeds differ from those on which samplers were
tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from search_spaces.blocks import Architecture, blocks, section_of, text_encoders

Floats = NDArray[np.float64]

PLACES = (*text_encoders(Architecture.SD15), *blocks(Architecture.SD15))  # the 26 places that a study of SD1.5 searches
PROMPTS = 16
SMOOTHING_BLOCKS = (1.0, 3.0)  # range of the width, in blocks, over which neighbours act together
BROKEN_SHARE = (0.15, 0.4)  # of uniformly random merges
PROMPT_NOISE = 0.6  # standard deviation of one prompt's noise, in units of optimum minus median random merge
COARSE = np.array([[1.0], [1.0], *[[1.0], [0.1], [0.1]] * 2])  # weight of each smooth mode in a coarse landscape
PROMPT_SHIFT = 0.05  # standard deviation of a prompt's own optimum around the common one, for each smooth mode


def _smooth_modes() -> Floats:
    """Return the smooth modes [8, 26], largest entry 1: text encoder, M00, and level, slope and bend of IN and OUT."""
    depth = {section: [index for index, place in enumerate(PLACES) if place.startswith(section)] for section in "IO"}
    modes = [np.eye(len(PLACES))[PLACES.index(single)] for single in ("text_encoder", "M00")]
    for members in depth.values():
        t = np.linspace(-1, 1, len(members))
        for wave in (np.ones_like(t), t, np.cos(np.pi * t)):
            mode = np.zeros(len(PLACES))
            mode[members] = wave
            modes.append(mode)
    return np.array(modes)


def _smoothing(width: float) -> Floats:
    """Return a Gaussian smoothing over depth [26, 26], whose rows sum to 1; the text encoder is not smoothed."""
    position = np.array([-1e3 if place == "text_encoder" else float(index) for index, place in enumerate(PLACES)])
    weights = np.exp(-0.5 * ((position[:, None] - position[None, :]) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A function of 26 ratios in 0..1; larger is better.

    `value` is the true value, `observe` a noisy measurement of it by a suite of 16 prompts.
    """

    name: str
    optima: tuple[Floats, ...]  # one or two good regions [26]
    heights: tuple[float, ...]
    shifts: Floats  # [PROMPTS, 26], each prompt's own optimum relative to the common one
    mixing: Floats  # [26, 26]: smoothing over the blocks that act together
    metric: Floats  # [26, k]: how much each direction matters
    width: float  # squared distance at which the value falls to 1/e
    strain: Floats  # [m, 26]: differences of ratios; a merge breaks when they are large
    limit: float  # strain at which a merge loses half of its value
    softness: float  # width of that transition
    noise: float = 0.0  # standard deviation of one prompt's noise
    best: float = 1.0  # optimum of `value`
    median: float = 0.0  # of random merges

    def value(self, ratios: Floats) -> Floats:
        """Return the noise-free mean over the prompts [...] of ratios [..., 26] in 0..1."""
        return np.asarray(self._by_prompt(ratios).mean(axis=-1))

    def observe(self, ratios: Floats, generator: np.random.Generator) -> tuple[float, float]:
        """Measure one trial; returns the mean over the prompts and the variance of its noise."""
        noisy = self._by_prompt(ratios) + generator.normal(0.0, self.noise, PROMPTS)
        return float(noisy.mean()), self.noise**2 / PROMPTS

    def regret(self, ratios: Floats) -> float:
        """Return the regret: 0 at the optimum, 1 at the median random merge."""
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
    """Make a landscape; its optimum and median random merge are computed numerically, in a few seconds.

    Args:
        structured: with order in depth; otherwise it is a control.
        coarse: one ratio for each section is almost enough.
    """
    generator = np.random.default_rng([seed, int(structured)])
    count = len(PLACES)
    modes = _smooth_modes() * (COARSE if coarse else 1.0)
    if structured:
        mixing = _smoothing(generator.uniform(*SMOOTHING_BLOCKS))
        optima = [np.clip(_profile(generator, modes), 0.05, 0.95) for _ in range(2)]
        weights = np.exp(_profile(generator, modes) * 1.5)
        strain = np.diff(np.eye(count)[1:], axis=0)  # differences between neighbours
        shifts = PROMPT_SHIFT * generator.normal(size=(PROMPTS, len(modes))) @ modes
    else:
        mixing = np.eye(count)
        optima = [generator.uniform(0.05, 0.95, count) for _ in range(2)]
        weights = np.exp(generator.normal(0.0, 1.0, count))
        strain = generator.normal(size=(count - 2, count)) / np.sqrt(count / 2)
        shifts = PROMPT_SHIFT * generator.normal(size=(PROMPTS, count))
    strain = strain - strain.mean(axis=1, keepdims=True)  # uniform merges have no strain
    common = generator.normal(size=(count, 3)) * 0.5  # a few directions in which blocks interact
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
    """Draw a random smooth depth profile [26] around one half."""
    scales = np.array([0.25, 0.25, *([0.2, 0.2, 0.12] * 2)])
    level = generator.normal(0.5, 0.12)
    return np.asarray(level + (generator.normal(size=len(modes)) * scales) @ modes)


def _typical_distance(random: Floats, optimum: Floats, mixing: Floats, metric: Floats) -> float:
    """Return the median squared distance of random merges, at which an unbroken merge has 1/e of the height."""
    return float(np.median((((random - optimum) @ mixing.T @ metric) ** 2).sum(axis=-1)))


def _calibrated(draft: Landscape, random: Floats) -> Landscape:
    """Compute the optimum and the median random merge, and set the noise in proportion to their difference."""
    values = draft.value(random)
    starts = [random[index] for index in np.argsort(values)[-6:]] + list(draft.optima)
    starts += [np.full(len(PLACES), level) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
    best = max(-_descend(draft, start) for start in starts)
    median = float(np.median(values))
    fields = {name: getattr(draft, name) for name in draft.__dataclass_fields__}
    return Landscape(**fields | {"best": best, "median": median, "noise": PROMPT_NOISE * (best - median)})


def _descend(landscape: Landscape, start: Floats) -> float:
    """Return the smallest negated value that L-BFGS-B finds from a start [26]."""
    step = 1e-5

    def loss(ratios: Floats) -> tuple[float, Floats]:
        around = step * np.eye(len(ratios))
        shifted = landscape.value(np.concatenate([ratios + around, ratios - around, ratios[None]]))
        gradient = (shifted[: len(ratios)] - shifted[len(ratios) : -1]) / (2 * step)
        return -float(shifted[-1]), -gradient

    return float(minimize(loss, start, jac=True, bounds=[(0.0, 1.0)] * len(start), method="L-BFGS-B").fun)


def sections() -> tuple[str, ...]:
    """Return the section of each place, to read results by."""
    return tuple("TEXT" if place == "text_encoder" else section_of(place) for place in PLACES)
