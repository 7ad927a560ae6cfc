"""What the depth-aware sampler reads from a study: finished, failed and running trials as arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optimizer.search.depth_features import Geometry

Floats = NDArray[np.float64]

NOISE_KEY = "mergetune:noise_variance"
"""System or user attribute of a trial: the variance of the noise of each objective's value, a list in their order.

It is the noise that differs between trials. With paired renders (same prompts, same seeds) that comes from the spread
of the prompts' *differences* between merges, far less than from the spread of their scores. A study does not store it:
how noisy the values of a fixed suite are is inferred, which was measured to be at least as good (docs/benchmarks.md).
"""
TAIL = 2.0
"""Values this many robust standard deviations below the median are broken merges; how broken does not matter."""
MAD_TO_SD = 1.4826
LARGEST = 1e100  # values beyond are taken for this, so that their squares are numbers
LEAST_SPREAD = 1e-3  # of the robust deviation, as a share of the plain one


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values, larger is better <-> z = (value - center) / spread with the tail below -TAIL pressed together.

    A landscape of merges has a plateau of broken ones far below everything else. Taken at face value it would be
    most of the variance, and the model would explain it instead of what tells good merges apart.
    """

    sign: float  # -1 where smaller values are better
    center: float
    spread: float

    @classmethod
    def of(cls, values: Floats, direction: StudyDirection) -> Scale:
        sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
        if not len(values):
            return cls(sign=sign, center=0.0, spread=1.0)
        center = float(np.median(values))
        spread = MAD_TO_SD * float(np.median(np.abs(values - center)))
        deviation = float(values.std())
        if spread <= LEAST_SPREAD * deviation:  # more than half of the values are the same
            spread = deviation or 1.0
        return cls(sign=sign, center=sign * center, spread=spread)

    def apply(self, values: Floats) -> Floats:
        z = self._linear(values)
        return np.asarray(np.where(z < -TAIL, -TAIL - np.log1p(np.maximum(-TAIL - z, 0.0)), z))

    def undo(self, z: Floats) -> Floats:
        linear = np.where(z < -TAIL, -TAIL - np.expm1(np.clip(-TAIL - z, 0.0, 50.0)), z)
        return np.asarray(self.sign * (linear * self.spread + self.center))

    def variance(self, values: Floats, variance: Floats) -> Floats:
        """Of the standardised values, by the slope of `apply`."""
        slope = 1 / (1 + np.maximum(-TAIL - self._linear(values), 0.0)) / self.spread
        return np.asarray(variance * slope**2)

    def _linear(self, values: Floats) -> Floats:
        return np.asarray((self.sign * values - self.center) / self.spread)


@dataclass(frozen=True, kw_only=True)
class Observations:
    """A study's trials; d parameters, m objectives. Values are standardised and larger is better."""

    x: Floats  # [n, d] scaled to 0..1
    values: Floats  # [n, m]
    noise: Floats | None  # [n, m] variances, or None where no trial says
    scales: tuple[Scale, ...]  # of each objective
    pending: Floats  # [p, d]
    finished: int  # how many of n were finished; the rest failed

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection],
        except_number: int = -1,
    ) -> Observations:
        """Trials that have all parameters of the space, in the order of their numbers.

        A failed trial counts as one that is as bad as the worst finished one, so that the sampler turns away from
        where merges fail; left out, they would be proposed again and again.
        """
        known = [
            trial for trial in trials if trial.number != except_number and set(geometry.names) <= trial.params.keys()
        ]
        complete = [trial for trial in known if trial.state == TrialState.COMPLETE]
        failed = [trial for trial in known if trial.state == TrialState.FAIL] if complete else []
        raw = _finite(np.array([trial.values for trial in complete]).reshape(-1, len(directions)))
        scales = tuple(Scale.of(column, direction) for column, direction in zip(raw.T, directions, strict=True))
        z = np.stack([scale.apply(column) for scale, column in zip(scales, raw.T, strict=True)], axis=1)
        noise = _noise(complete, scales, raw)
        if failed:
            z = np.concatenate([z, np.repeat(z.min(axis=0, keepdims=True), len(failed), axis=0)])
            if noise is not None:
                noise = np.concatenate([noise, np.repeat(np.median(noise, axis=0, keepdims=True), len(failed), axis=0)])
        return cls(
            x=_points(geometry, [*complete, *failed]),
            values=z,
            noise=noise,
            scales=scales,
            pending=_points(geometry, [trial for trial in known if trial.state == TrialState.RUNNING]),
            finished=len(complete),
        )


def _points(geometry: Geometry, trials: Sequence[FrozenTrial]) -> Floats:
    return np.array([geometry.scaled(trial.params) for trial in trials]).reshape(-1, len(geometry.names))


def _finite(raw: Floats) -> Floats:
    """Infinite values at the nearest finite one of their objective; Optuna refuses NaN."""
    columns = []
    for column in raw.T:
        finite = column[np.isfinite(column)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        columns.append(np.clip(column, max(low, -LARGEST), min(high, LARGEST)))
    return np.array(columns).T.reshape(raw.shape)


def _noise(trials: Sequence[FrozenTrial], scales: Sequence[Scale], raw: Floats) -> Floats | None:
    """Known variances; the median where some trials have none."""
    rows = [_noise_of(trial, len(scales)) for trial in trials]
    known = [row for row in rows if row is not None]
    if not known:
        return None
    middle = np.median(np.array(known), axis=0)
    variances = np.array([middle if row is None else row for row in rows])
    return np.stack([scale.variance(raw[:, i], variances[:, i]) for i, scale in enumerate(scales)], axis=1)


def _noise_of(trial: FrozenTrial, objectives: int) -> Floats | None:
    """Raises ValueError: the attribute is not a variance for each objective."""
    stored = trial.system_attrs.get(NOISE_KEY, trial.user_attrs.get(NOISE_KEY))
    if stored is None:
        return None
    row = np.array(json.loads(stored) if isinstance(stored, str) else stored, dtype=np.float64).reshape(-1)
    if len(row) != objectives or not np.all(np.isfinite(row)) or np.any(row < 0):
        raise ValueError(
            f"trial {trial.number}, {NOISE_KEY}: expected {objectives} variances of at least 0, got {stored!r}"
        )
    return row
