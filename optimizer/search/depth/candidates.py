"""Candidates: the merges among which the acquisition function chooses.

In 26 dimensions, most of which the model knows nothing about, following the gradient from random points finds little.
So the candidates are what a person would try: smooth profiles, small changes to the best merge so far, and shifts of
whole sections.

Notation: d parameters, scaled to 0..1 by their bounds; k smooth modes. All arrays are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.search.depth.features import Geometry

Floats = NDArray[np.float64]
SPREADS = (0.02, 0.05, 0.1, 0.2)  # standard deviations of local changes
FAR = 0.2  # root mean square difference of the parameters from which on a profile is distant
TOO_CLOSE = 1e-3  # two merges are the same if no parameter differs by more


def profiles(geometry: Geometry, draws: Floats) -> Floats:
    """Turn numbers in 0..1 into smooth depth profiles [n, d].

    Args:
        draws: [n, 3 + k]: three weights for the waves over the whole depth, then one for each mode of a section.
    """
    centred = 2 * draws - 1
    wave = centred[:, :3] * np.array([0.5, 0.4, 0.3]) @ geometry.waves
    return np.asarray(np.clip(0.5 + wave + 0.35 * centred[:, 3:] ** 3 @ geometry.modes, 0.0, 1.0))


def profile_draws(geometry: Geometry) -> int:
    """Return how many numbers one profile is made of."""
    return 3 + len(geometry.modes)


def candidates(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Generate about `count` candidates [n, d]: more than half around the best merges, the rest smooth or random.

    Args:
        centers: the best merges [m, d], the incumbent first.
    """
    share = count // 8
    parts = [
        profiles(geometry, generator.uniform(size=(2 * share, profile_draws(geometry)))),
        generator.uniform(size=(share, len(geometry.names))),
        _local(centers, 2 * share, generator),
        _smooth_moves(geometry, centers, 2 * share, generator),
        _section_shifts(geometry, centers, share, generator),
    ]
    return np.asarray(np.clip(np.concatenate(parts), 0.0, 1.0))


def distant_profiles(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Generate smooth profiles at least FAR from all the best merges; the most distant one if none is.

    Args:
        centers: the best merges [m, d].
        count: profiles to draw, of which those that are close are dropped.

    Returns:
        [1 .. count, d]
    """
    drawn = profiles(geometry, generator.uniform(size=(count, profile_draws(geometry))))
    distance = np.sqrt(((drawn[:, None] - centers[None]) ** 2).mean(axis=-1)).min(axis=1)
    return np.asarray(drawn[distance >= min(FAR, distance.max())])


def _pick(centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Pick centres to start from [count, d]: the incumbent half of the time, or else any."""
    which = np.where(generator.uniform(size=count) < 0.5, 0, generator.integers(len(centers), size=count))
    return np.asarray(centers[which])


def _local(centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Move single parameters of a centre at random: all of them, or a random subset."""
    steps = generator.normal(size=(count, centers.shape[1])) * generator.choice(SPREADS, size=(count, 1))
    share = generator.choice((0.1, 0.3, 1.0), size=(count, 1))
    chosen = generator.uniform(size=steps.shape) < share
    chosen[np.arange(count), generator.integers(centers.shape[1], size=count)] = True  # at least one
    return np.asarray(_pick(centers, count, generator) + np.where(chosen, steps, 0.0))


def _smooth_moves(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Add random combinations of the smooth modes to a centre."""
    steps = generator.normal(size=(count, len(geometry.modes))) * generator.choice(SPREADS, size=(count, 1))
    chosen = generator.uniform(size=steps.shape) < generator.choice((0.2, 1.0), size=(count, 1))
    return np.asarray(_pick(centers, count, generator) + np.where(chosen, steps, 0.0) @ geometry.modes)


def _section_shifts(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Shift one section of a centre as a whole, by any amount."""
    shifts = generator.uniform(-1.0, 1.0, size=(count, 1))
    return np.asarray(
        _pick(centers, count, generator)
        + shifts * geometry.levels[generator.integers(len(geometry.levels), size=count)]
    )


def perturbed(center: Floats, generator: np.random.Generator) -> Floats:
    """Change every parameter of the incumbent a little: the proposal [d] when there is no model."""
    return np.asarray(np.clip(center + generator.normal(0.0, 0.1, len(center)), 0.0, 1.0))


def is_new(points: Floats, tried: Floats) -> NDArray[np.bool_]:
    """Return which points [n, d] differ from all tried merges [m, d]: the same merge gives the same pixels."""
    if not len(tried):
        return np.ones(len(points), dtype=bool)
    return np.asarray(np.abs(points[:, None] - tried[None]).max(axis=-1).min(axis=-1) > TOO_CLOSE)
