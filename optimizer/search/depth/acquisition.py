"""What the next merge is worth: log expected improvement, or of the hypervolume for several objectives.

The improvement is one over the best posterior mean, not over the luckiest observation: a noisy value taken for an
optimum would hold the search where nothing is. Noisy expected improvement, which averages over what the best may be,
was measured and found no better for more time: see docs/explanation/benchmarks.md. Merges that are still being
rendered count as if they had given what the model expects. The functions are BoTorch's.
Ament et al., Unexpected Improvements to Expected Improvement (2023); Daulton et al., Differentiable Expected
Hypervolume Improvement (2020).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.search.depth.candidates import is_new
from optimizer.search.depth.gaussian_process import posterior, quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from botorch.acquisition.acquisition import AcquisitionFunction
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.acquisition.multi_objective import logei
    from botorch.models import SingleTaskGP
    from botorch.models.model import Model
    from botorch.optim import optimize_acqf
    from botorch.posteriors import GPyTorchPosterior
    from botorch.sampling import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from botorch.utils.multi_objective.hypervolume import infer_reference_point
    from botorch.utils.multi_objective.pareto import is_non_dominated
    from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
    from linear_operator.operators import DiagLinearOperator

Floats = NDArray[np.float64]
REFERENCE_MARGIN = 0.1  # how far below the front the reference point lies, as a share of the front's range
CHUNK = 400  # candidates evaluated together
LEAST_VARIANCE = 1e-12  # rounding may leave less than nothing where a value is known
POLISHED = 2  # candidates whose parameters are then moved along the gradient
POLISH_ITERATIONS = 25


class Marginals(Model):  # type: ignore[misc]
    """What models say of single merges, each on its own; m models, one for each objective.

    GPyTorch's posterior of b merges in a batch copies the training data b times. Acquisition functions of one merge
    need no covariance between merges: [b, 1, d] is asked for as [b, d], which takes a tenth of the time.
    """

    def __init__(self, models: Sequence[SingleTaskGP]) -> None:
        super().__init__()
        self.models = tuple(models)

    @property
    def num_outputs(self) -> int:
        return len(self.models)

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    def posterior(self, X: Tensor, *_: object, **__: object) -> GPyTorchPosterior:  # noqa: N803 - BoTorch's name
        """X: [b, 1, d]. Returns a posterior of [b, 1, m]."""
        found = [model.posterior(X.squeeze(-2)) for model in self.models]
        mean = torch.stack([each.mean for each in found], dim=-1)
        variance = torch.cat([each.variance.clamp_min(LEAST_VARIANCE) for each in found], dim=-1)
        if len(found) == 1:
            return GPyTorchPosterior(MultivariateNormal(mean.squeeze(-1), DiagLinearOperator(variance)))
        return GPyTorchPosterior(MultitaskMultivariateNormal(mean, DiagLinearOperator(variance)))


def acquisition(
    models: Sequence[SingleTaskGP], x: Floats, pending: Floats, samples: int, seed: int
) -> AcquisitionFunction:
    """The function to maximise, of scaled parameters [..., 1, d].

    Args:
        models: one per objective, larger is better.
        x: what was observed [n, d].
        pending: what is being evaluated [p, d].
    """
    with quiet():
        models = [_believing(model, pending) for model in models]
        known = np.concatenate([x, pending])
        means = np.stack([posterior(model, known)[0] for model in models], axis=1)
        if len(models) == 1:
            return LogExpectedImprovement(Marginals(models), best_f=float(means.max()))
        return _hypervolume(models, torch.from_numpy(means), SobolQMCNormalSampler(torch.Size([samples]), seed=seed))


def _believing(model: SingleTaskGP, pending: Floats) -> SingleTaskGP:
    """The model as if each pending merge had given its posterior mean: nothing is gained by trying it again."""
    if not len(pending):
        return model
    mean, _ = posterior(model, pending)
    points, values = torch.from_numpy(pending), torch.from_numpy(mean)[:, None]
    noise = model.likelihood.noise.detach().mean().expand_as(values)
    return model.condition_on_observations(points, values, noise=noise)


def _hypervolume(models: Sequence[SingleTaskGP], means: Tensor, sampler: SobolQMCNormalSampler) -> AcquisitionFunction:
    """Over the front of the posterior means [n, m].

    In pure Python: BoTorch would else compile a C++ kernel on first use, half a minute in each process, and proposals
    would depend on whether the machine has a compiler.
    """
    logei._load_attempted = True  # noqa: SLF001 - there is no public switch
    front = means[is_non_dominated(means)]
    reference = infer_reference_point(front, scale=REFERENCE_MARGIN)
    return logei.qLogExpectedHypervolumeImprovement(
        Marginals(models), reference, FastNondominatedPartitioning(reference, front), sampler=sampler
    )


def maximise(function: AcquisitionFunction, points: Floats, known: Floats, *, polish: bool = True) -> Floats:
    """The best candidate, with `polish` moved along the gradient; never a copy of what is known [d]."""
    fresh = points[is_new(points, known)]
    if not len(fresh):
        fresh = points
    values = evaluate(function, fresh)
    best = fresh[np.argsort(-values, kind="stable")[:POLISHED]]
    if not polish:
        return np.asarray(best[0])
    with quiet():
        moved, _ = optimize_acqf(
            function,
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, points.shape[1]),
            q=1,
            num_restarts=len(best),
            batch_initial_conditions=torch.from_numpy(best)[:, None],
            options={"maxiter": POLISH_ITERATIONS},
            retry_on_optimization_warning=False,
        )
    polished = moved.detach().numpy()
    return np.asarray(polished[0] if is_new(polished, known)[0] else best[0])


def evaluate(function: AcquisitionFunction, points: Floats) -> Floats:
    """[n, d] -> [n]"""
    with torch.no_grad(), quiet():
        parts: list[Tensor] = [function(part[:, None]) for part in torch.split(torch.from_numpy(points), CHUNK)]
    return np.asarray(torch.cat(parts).numpy())
