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
MIN_TRIALS = 3
SAMPLE = 64  # merges over which a parameter's effect is averaged
STEPS = 9  # values of a parameter at which its effect is evaluated


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The main effect of one parameter under the model, averaged over all other parameters and the whole space."""

    share: float  # of the posterior mean's variance, 0..1: Sobol's first-order index (Sobol 2001)
    at: tuple[float, ...]  # values of the parameter, ascending within its bounds
    mean: tuple[float, ...]  # expected objective at each value, in its own unit


@dataclass(frozen=True, kw_only=True)
class DepthModel:
    """The sampler's model, fitted to one objective of a study."""

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
        """Fit the model to the complete and failed trials.

        Args:
            objective: index of the objective.

        Raises:
            StudyError: fewer than MIN_TRIALS trials are complete.
            NUMERICAL_ERRORS: no sensible model fits the values; see `gaussian_process`.
        """
        from optimizer.search.depth.gaussian_process import fit  # BoTorch takes seconds to import

        geometry = Geometry.of(space)
        observed = Observations.of(geometry, trials, directions)
        if observed.complete < MIN_TRIALS:
            raise StudyError(
                f"expected at least {MIN_TRIALS} complete trials in the search space, got {observed.complete}: "
                "let the study run on"
            )
        model = fit(geometry, observed.x, observed.values[:, objective])
        return cls(geometry=geometry, scale=observed.scales[objective], model=model)

    def posterior(self, trials: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
        """Return mean [n] and standard deviation [n] of each trial's noise-free value, in the objective's own unit.

        In the logarithmic tail of the scale, the mean is the posterior's median.

        Args:
            trials: which have all parameters of the space.
        """
        x = np.array([self.geometry.scaled(trial.params) for trial in trials]).reshape(-1, len(self.geometry.names))
        mean, deviation = self._posterior(x)
        lower, upper = self.scale.undo(mean - deviation), self.scale.undo(mean + deviation)
        return self.scale.undo(mean), np.abs(upper - lower) / 2

    def effects(self) -> dict[str, Effect]:
        """Map each parameter to its main effect, over a Sobol sample of the whole space.

        Interactions between parameters are in none of the shares.
        """
        count = len(self.geometry.names)
        sample = qmc.Sobol(count, rng=np.random.default_rng(0)).random(SAMPLE)
        wide = qmc.Sobol(count, rng=np.random.default_rng(1)).random(16 * SAMPLE)
        total = float(self._posterior(wide)[0].var())
        steps = (np.arange(STEPS) + 0.5) / STEPS
        effects = {}
        for index, name in enumerate(self.geometry.names):
            points = np.repeat(sample[None], STEPS, axis=0)
            points[:, :, index] = steps[:, None]
            means = self._posterior(points.reshape(-1, count))[0].reshape(STEPS, SAMPLE).mean(axis=1)
            low, high = self.geometry.low[index], self.geometry.high[index]
            effects[name] = Effect(
                share=min(float(means.var()) / total, 1.0) if total > 0 else 0.0,
                at=tuple(map(float, low + steps * (high - low))),
                mean=tuple(map(float, self.scale.undo(means))),
            )
        return effects

    def _posterior(self, x: Floats) -> tuple[Floats, Floats]:
        from optimizer.search.depth.gaussian_process import posterior

        return posterior(self.model, x)
