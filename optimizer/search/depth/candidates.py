"""Candidates: the merges among which the acquisition function chooses.

A gradient alone finds little in 26 dimensions, about most of which the model knows nothing. So the candidates are what
a person would try: smooth profiles, small changes of the best merge so far, and whole sections moved.
All arrays hold parameters scaled to 0..1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.search.depth.features import Geometry

Floats = NDArray[np.float64]
SPREADS = (0.02, 0.05, 0.1, 0.2)  # standard deviations of local changes
FAR = 0.2  # root mean square difference of the parameters
TOO_CLOSE = 1e-3  # largest difference of a parameter at which two merges are the same merge


def profiles(geometry: Geometry, draws: Floats) -> Floats:
    """Smooth depth profiles from numbers in 0..1.

    Args:
        draws: [n, 3 + k]: three for waves over the whole depth, one for each mode of a section.

    Returns:
        [n, d]
    """
    centred = 2 * draws - 1
    wave = centred[:, :3] * np.array([0.5, 0.4, 0.3]) @ geometry.waves
    return np.asarray(np.clip(0.5 + wave + 0.35 * centred[:, 3:] ** 3 @ geometry.modes, 0.0, 1.0))


def profile_draws(geometry: Geometry) -> int:
    """How many numbers one profile is made of."""
    return 3 + len(geometry.modes)


def candidates(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Half of them around the best merges, the rest smooth or random.

    Args:
        centers: [m, d], the incumbent first.

    Returns:
        [about count, d]
    """
    share = count // 8
    found = [
        profiles(geometry, generator.uniform(size=(2 * share, profile_draws(geometry)))),
        generator.uniform(size=(share, len(geometry.names))),
        _local(centers, 2 * share, generator),
        _smooth_moves(geometry, centers, 2 * share, generator),
        _section_shifts(geometry, centers, share, generator),
    ]
    return np.asarray(np.clip(np.concatenate(found), 0.0, 1.0))


def distant_profiles(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Smooth profiles that are far from all the best merges [1 .. count, d]; the farthest where none is far."""
    found = profiles(geometry, generator.uniform(size=(count, profile_draws(geometry))))
    distance = np.sqrt(((found[:, None] - centers[None]) ** 2).mean(axis=-1)).min(axis=1)
    return np.asarray(found[distance >= min(FAR, distance.max())])


def _pick(centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Centres to start from, the incumbent half of the time."""
    which = np.where(generator.uniform(size=count) < 0.5, 0, generator.integers(len(centers), size=count))
    return np.asarray(centers[which])


def _local(centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Single parameters moved: all of them a little, or some of them more."""
    steps = generator.normal(size=(count, centers.shape[1])) * generator.choice(SPREADS, size=(count, 1))
    share = generator.choice((0.1, 0.3, 1.0), size=(count, 1))
    chosen = generator.uniform(size=steps.shape) < share
    chosen[np.arange(count), generator.integers(centers.shape[1], size=count)] = True  # never none
    return np.asarray(_pick(centers, count, generator) + np.where(chosen, steps, 0.0))


def _smooth_moves(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Profiles added to a centre."""
    steps = generator.normal(size=(count, len(geometry.modes))) * generator.choice(SPREADS, size=(count, 1))
    chosen = generator.uniform(size=steps.shape) < generator.choice((0.2, 1.0), size=(count, 1))
    return np.asarray(_pick(centers, count, generator) + np.where(chosen, steps, 0.0) @ geometry.modes)


def _section_shifts(geometry: Geometry, centers: Floats, count: int, generator: np.random.Generator) -> Floats:
    """One section moved as a whole, by any amount."""
    shifts = generator.uniform(-1.0, 1.0, size=(count, 1))
    return np.asarray(
        _pick(centers, count, generator)
        + shifts * geometry.levels[generator.integers(len(geometry.levels), size=count)]
    )


def perturbed(center: Floats, generator: np.random.Generator) -> Floats:
    """Propose without a model: the incumbent with every parameter changed a little [d]."""
    return np.asarray(np.clip(center + generator.normal(0.0, 0.1, len(center)), 0.0, 1.0))


def is_new(points: Floats, known: Floats) -> NDArray[np.bool_]:
    """Which of the points [n, d] are no copies of the known [m, d]: the same merge gives the same pixels."""
    if not len(known):
        return np.ones(len(points), dtype=bool)
    return np.asarray(np.abs(points[:, None] - known[None]).max(axis=-1).min(axis=-1) > TOO_CLOSE)
