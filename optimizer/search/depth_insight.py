"""What the depth-aware model believes: of the trials that were observed, and of each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from optimizer.search.depth_data import Observations, Scale
from optimizer.search.depth_features import Geometry
from search_spaces.space import SearchSpace
from studies.errors import StudyError

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Floats = NDArray[np.float64]
LEAST_TRIALS = 3
SAMPLE = 64  # merges over which a parameter's effect is averaged
STEPS = 9  # values of a parameter at which its effect is read


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
        from optimizer.search.depth_model import fit  # BoTorch takes seconds to import

        geometry = Geometry.of(space)
        seen = Observations.of(geometry, trials, directions)
        if seen.finished < LEAST_TRIALS:
            raise StudyError(f"expected at least {LEAST_TRIALS} finished trials in the space, got {seen.finished}")
        noise = None if seen.noise is None else seen.noise[:, objective]
        model = fit(geometry, seen.x, seen.values[:, objective], noise)
        return cls(geometry=geometry, scale=seen.scales[objective], model=model)

    def posterior(self, trials: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each trial's noise-free value, in the objective's own unit: [n], [n].

        Each trial has all parameters of the space. The mean is the median where the scale is not linear.
        """
        x = np.array([self.geometry.scaled(trial.params) for trial in trials]).reshape(-1, len(self.geometry.names))
        mean, deviation = self._posterior(x)
        ends = self.scale.undo(mean - deviation), self.scale.undo(mean + deviation)
        return self.scale.undo(mean), np.abs(ends[1] - ends[0]) / 2

    def sensitivity(self) -> dict[str, float]:
        """Each parameter's main effect: the share of the posterior mean's variance that it explains alone, 0..1.

        Over a Sobol sample of the whole space; the first-order index of Sobol (2001). What parameters explain only
        together is in none of them.
        """
        count = len(self.geometry.names)
        sample = qmc.Sobol(count, rng=np.random.default_rng(0)).random(SAMPLE)
        steps = (np.arange(STEPS) + 0.5) / STEPS
        effects = []
        for index in range(count):
            points = np.repeat(sample[None], STEPS, axis=0)
            points[:, :, index] = steps[:, None]
            effects.append(self._posterior(points.reshape(-1, count))[0].reshape(STEPS, SAMPLE).mean(axis=1).var())
        wide = qmc.Sobol(count, rng=np.random.default_rng(1)).random(16 * SAMPLE)
        total = float(self._posterior(wide)[0].var())
        shares = np.clip(np.array(effects) / total, 0.0, 1.0) if total > 0 else np.zeros(count)
        return dict(zip(self.geometry.names, map(float, shares), strict=True))

    def _posterior(self, x: Floats) -> tuple[Floats, Floats]:
        from optimizer.search.depth_model import posterior

        return posterior(self.model, x)
