"""Observations: the finished, failed and running trials of a study, as arrays for the depth-aware model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optimizer.search.depth.features import Geometry

Floats = NDArray[np.float64]

TAIL = 2.0
"""Values further below the median than this many robust standard deviations are broken merges, and are compressed."""
MAD_TO_SD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
LARGEST = 1e100  # larger values are clipped to this, so that their squares are finite
MIN_SPREAD = 1e-3  # of the robust standard deviation, as a share of the plain one


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Robust standardisation: z = (value - center) / spread, larger is better, logarithmic below -TAIL.

    A landscape of merges has a plateau of broken ones far below everything else. On a linear scale it would make up
    most of the variance, and the model would explain the plateau instead of the differences between good merges.
    """

    sign: float  # -1 where smaller values are better
    center: float  # the median, with the sign
    spread: float  # robust standard deviation, from the median absolute deviation

    @classmethod
    def of(cls, values: Floats, direction: StudyDirection) -> Scale:
        """Estimate center and spread from finite values [n]."""
        sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
        if not len(values):
            return cls(sign=sign, center=0.0, spread=1.0)
        center = float(np.median(values))
        spread = MAD_TO_SD * float(np.median(np.abs(values - center)))
        deviation = float(values.std())
        if spread <= MIN_SPREAD * deviation:  # more than half of the values are the same
            spread = deviation or 1.0
        return cls(sign=sign, center=sign * center, spread=spread)

    def apply(self, values: Floats) -> Floats:
        """Standardise values [n]."""
        z = self._linear(values)
        return np.asarray(np.where(z < -TAIL, -TAIL - np.log1p(np.maximum(-TAIL - z, 0.0)), z))

    def undo(self, z: Floats) -> Floats:
        """Turn standardised values [n] back into the objective's own unit."""
        linear = np.where(z < -TAIL, -TAIL - np.expm1(np.clip(-TAIL - z, 0.0, 50.0)), z)
        return np.asarray(self.sign * (linear * self.spread + self.center))

    def _linear(self, values: Floats) -> Floats:
        return np.asarray((self.sign * values - self.center) / self.spread)


@dataclass(frozen=True, kw_only=True)
class Observations:
    """A study's trials; d parameters, m objectives, c bounds of constraints. All is standardised, larger is better."""

    x: Floats  # [n, d]: the complete trials, then the failed ones; scaled to 0..1
    values: Floats  # [n, m]
    scales: tuple[Scale, ...]  # of each objective
    pending: Floats  # [p, d]: the running trials
    complete: int  # how many of the n trials are complete; the others failed
    slack: Floats  # [n, c]: on the side of a bound that is allowed a trial has `limits` or more
    limits: Floats  # [c]

    @property
    def violation(self) -> Floats:
        """By how much each trial breaks all bounds together [n]; 0 where it keeps them."""
        return np.asarray(np.maximum(self.limits - self.slack, 0.0).sum(axis=1))

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection],
        except_number: int = -1,
    ) -> Observations:
        """Collect the trials that have all parameters of the space.

        A failed trial counts as much as the worst complete one, in constraints as well, so that the sampler avoids
        regions where merges fail. If failed trials were left out, the sampler would propose them again and again.

        Args:
            trials: of the study, in the order of their numbers.
            directions: of its objectives.
            except_number: of a trial to leave out, such as the one to propose.
        """
        inside = [
            trial for trial in trials if trial.number != except_number and set(geometry.names) <= trial.params.keys()
        ]
        complete = [trial for trial in inside if trial.state == TrialState.COMPLETE]
        failed = [trial for trial in inside if trial.state == TrialState.FAIL] if complete else []
        raw = _finite(np.array([trial.values for trial in complete]).reshape(-1, len(directions)))
        scales = tuple(Scale.of(column, direction) for column, direction in zip(raw.T, directions, strict=True))
        z = np.stack([scale.apply(column) for scale, column in zip(scales, raw.T, strict=True)], axis=1)
        slack, limits = _slack(complete)
        return cls(
            x=_points(geometry, [*complete, *failed]),
            values=_with_failed(z, len(failed)),
            slack=_with_failed(slack, len(failed)),
            limits=limits,
            scales=scales,
            pending=_points(geometry, [trial for trial in inside if trial.state == TrialState.RUNNING]),
            complete=len(complete),
        )


def _slack(complete: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
    """Return how far inside each bound complete trials are, standardised [n, c], and where each bound lies [c]."""
    constraints = [trial.constraints for trial in complete]
    names = [name for name in (constraints[0] if constraints else ()) if all(name in each for each in constraints)]
    if not names:
        return np.zeros((len(complete), 0)), np.zeros(0)
    excess = _finite(np.array([[each[name] for name in names] for each in constraints]))
    scales = [Scale.of(column, StudyDirection.MINIMIZE) for column in excess.T]
    slack = [scale.apply(column) for scale, column in zip(scales, excess.T, strict=True)]
    limits = np.array([float(scale.apply(np.zeros(1))[0]) for scale in scales])
    return np.stack(slack, axis=1), limits


def _with_failed(z: Floats, failed: int) -> Floats:
    """Append a row of the worst values to [n, k] for each failed trial."""
    return z if not failed else np.concatenate([z, np.repeat(z.min(axis=0, keepdims=True), failed, axis=0)])


def _points(geometry: Geometry, trials: Sequence[FrozenTrial]) -> Floats:
    return np.array([geometry.scaled(trial.params) for trial in trials]).reshape(-1, len(geometry.names))


def _finite(raw: Floats) -> Floats:
    """Clip infinite values to the most extreme finite one of their objective [n, m]; Optuna itself refuses NaN."""
    columns = []
    for column in raw.T:
        finite = column[np.isfinite(column)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        columns.append(np.clip(column, max(low, -LARGEST), min(high, LARGEST)))
    return np.array(columns).T.reshape(raw.shape)
