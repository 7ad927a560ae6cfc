"""The depth-aware model's posterior: of the observed trials, and of each parameter's effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from optimizer.search.depth.features import Geometry
from optimizer.search.depth.observations import Observations, Scale
from search_spaces.space import SearchSpace
from studies.errors import StudyError

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Floats = NDArray[np.float64]
LEAST_TRIALS = 3
SAMPLE = 64  # merges over which a parameter's effect is averaged
STEPS = 9  # values of a parameter at which its effect is read


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What the model believes of one parameter, all others averaged over the whole space."""

    share: float  # of the posterior mean's variance, 0..1: Sobol's first-order index (Sobol 2001)
    at: tuple[float, ...]  # values of the parameter, from its low bound to its high one
    mean: tuple[float, ...]  # the objective there, in its own unit


@dataclass(frozen=True, kw_only=True)
class DepthModel:
    """The model fitted to one objective of a study, as the sampler fits it."""

    geometry: Geometry
    scale: Scale
    model: SingleTaskGP

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection],
        objective: int = 0,
    ) -> DepthModel:
        """Fit to the trials that are finished or failed.

        Raises:
            StudyError: too few trials are finished.
        """
        from optimizer.search.depth.gaussian_process import fit  # BoTorch takes seconds to import

        geometry = Geometry.of(space)
        seen = Observations.of(geometry, trials, directions)
        if seen.finished < LEAST_TRIALS:
            raise StudyError(f"expected at least {LEAST_TRIALS} finished trials in the space, got {seen.finished}")
        model = fit(geometry, seen.x, seen.values[:, objective])
        return cls(geometry=geometry, scale=seen.scales[objective], model=model)

    def posterior(self, trials: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each trial's noise-free value, in the objective's own unit: [n], [n].

        Each trial has all parameters of the space. The mean is the median where the scale is not linear.
        """
        x = np.array([self.geometry.scaled(trial.params) for trial in trials]).reshape(-1, len(self.geometry.names))
        mean, deviation = self._posterior(x)
        ends = self.scale.undo(mean - deviation), self.scale.undo(mean + deviation)
        return self.scale.undo(mean), np.abs(ends[1] - ends[0]) / 2

    def effects(self) -> dict[str, Effect]:
        """Each parameter's main effect, over a Sobol sample of the whole space.

        What parameters explain only together is in none of their shares.
        """
        count = len(self.geometry.names)
        sample = qmc.Sobol(count, rng=np.random.default_rng(0)).random(SAMPLE)
        wide = qmc.Sobol(count, rng=np.random.default_rng(1)).random(16 * SAMPLE)
        total = float(self._posterior(wide)[0].var())
        steps = (np.arange(STEPS) + 0.5) / STEPS
        found = {}
        for index, name in enumerate(self.geometry.names):
            points = np.repeat(sample[None], STEPS, axis=0)
            points[:, :, index] = steps[:, None]
            means = self._posterior(points.reshape(-1, count))[0].reshape(STEPS, SAMPLE).mean(axis=1)
            low, high = self.geometry.low[index], self.geometry.high[index]
            found[name] = Effect(
                share=min(float(means.var()) / total, 1.0) if total > 0 else 0.0,
                at=tuple(map(float, low + steps * (high - low))),
                mean=tuple(map(float, self.scale.undo(means))),
            )
        return found

    def _posterior(self, x: Floats) -> tuple[Floats, Floats]:
        from optimizer.search.depth.gaussian_process import posterior

        return posterior(self.model, x)
