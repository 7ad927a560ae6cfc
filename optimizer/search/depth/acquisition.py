"""Acquisition functions: log expected improvement, or log expected hypervolume improvement for several objectives.

The improvement is measured from the best posterior mean, not from the best observation. A lucky noisy observation would
otherwise hold the search in a region that has nothing to offer. Noisy expected improvement, which integrates over the
unknown best value, was measured as well: it took longer and was no better
(docs/explanation/benchmarks.md). A merge that is still being rendered counts as if it had returned its posterior mean.
The functions are BoTorch's.

With constraints, the improvement is measured from the best posterior mean among the observed merges that keep them, and
multiplied by the probability that all bounds are kept, as if they were independent. While no merge keeps them, that
probability alone is maximised (Gardner et al., Bayesian Optimization with Inequality Constraints, 2014).

Ament et al., Unexpected Improvements to Expected Improvement (2023); Daulton et al., Differentiable Expected
Hypervolume Improvement (2020).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.search.depth.candidates import is_new
from optimizer.search.depth.gaussian_process import library_warnings_ignored, posterior

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
MIN_VARIANCE = 1e-12  # rounding may make the variance negative at observed points
POLISHED = 2  # the best candidates, which L-BFGS then improves
POLISH_ITERATIONS = 25  # of L-BFGS


class Marginals(Model):  # type: ignore[misc]
    """The marginal posteriors of single merges under m independent models, one for each objective.

    For b merges in a batch, GPyTorch's posterior copies the training data b times. An acquisition function of one merge
    needs no covariance between merges, so [b, 1, d] is evaluated as [b, d], which takes a tenth of the time.
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
        """Return the posterior [b, 1, m] at X [b, 1, d]."""
        posteriors = [model.posterior(X.squeeze(-2)) for model in self.models]
        mean = torch.stack([each.mean for each in posteriors], dim=-1)
        variance = torch.cat([each.variance.clamp_min(MIN_VARIANCE) for each in posteriors], dim=-1)
        if len(posteriors) == 1:
            return GPyTorchPosterior(MultivariateNormal(mean.squeeze(-1), DiagLinearOperator(variance)))
        return GPyTorchPosterior(MultitaskMultivariateNormal(mean, DiagLinearOperator(variance)))


@dataclass(frozen=True, kw_only=True)
class ConstraintLimits:
    """The models of how far inside each bound of the constraints a merge is, and where the bounds lie."""

    models: Sequence[SingleTaskGP] = ()  # c of them
    values: Floats = field(default_factory=lambda: np.zeros(0))  # [c], in the models' units: the least that is allowed
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))  # [n], by the observed merges


class WithinLimits(AcquisitionFunction):  # type: ignore[misc]
    """The log of an expected improvement times the probability that every bound is kept.

    Args:
        inner: the log expected improvement; None: the probability alone.
    """

    def __init__(self, inner: AcquisitionFunction | None, limits: ConstraintLimits) -> None:
        super().__init__(model=Marginals(limits.models))
        self.inner = inner
        self.register_buffer("limits", torch.from_numpy(limits.values))

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803 - BoTorch's name
        """Evaluate merges [..., 1, d]; returns [...]."""
        of_merges = self.model.posterior(X)
        kept: Tensor = torch.special.log_ndtr((of_merges.mean - self.limits) / of_merges.variance.sqrt())
        log_probability = kept.sum(dim=-1).squeeze(-1)
        return log_probability if self.inner is None else self.inner(X) + log_probability


def acquisition(
    models: Sequence[SingleTaskGP],
    x: Floats,
    pending: Floats,
    samples: int,
    seed: int,
    limits: ConstraintLimits | None = None,
) -> AcquisitionFunction:
    """Return the function to maximise: scaled parameters [..., 1, d] -> [...].

    Args:
        models: one per objective, larger is better.
        x: the observed merges [n, d].
        pending: the merges that are being evaluated [p, d].
        samples: quasi-Monte Carlo samples of the posterior; used for several objectives only.
        seed: of those samples.
        limits: of the constraints; None: there are none.
    """
    with library_warnings_ignored():
        models = [_with_pending(model, pending) for model in models]
        merges = np.concatenate([x, pending])
        means = np.stack([posterior(model, merges)[0] for model in models], axis=1)
        if limits is None or not limits.models:
            return _improvement(models, means, samples, seed)
        kept = means[: len(x)][limits.kept]
        return WithinLimits(_improvement(models, kept, samples, seed) if len(kept) else None, limits)


def _improvement(models: Sequence[SingleTaskGP], means: Floats, samples: int, seed: int) -> AcquisitionFunction:
    """Return the log expected improvement over the best of posterior means [n, m], or over their front."""
    if len(models) == 1:
        return LogExpectedImprovement(Marginals(models), best_f=float(means.max()))
    return _hypervolume(models, torch.from_numpy(means), SobolQMCNormalSampler(torch.Size([samples]), seed=seed))


def _with_pending(model: SingleTaskGP, pending: Floats) -> SingleTaskGP:
    """Condition the model on each pending merge having returned its posterior mean, so that it is not proposed again.

    Args:
        pending: [p, d].
    """
    if not len(pending):
        return model
    mean, _ = posterior(model, pending)
    points, values = torch.from_numpy(pending), torch.from_numpy(mean)[:, None]
    noise = model.likelihood.noise.detach().mean().expand_as(values)
    return model.condition_on_observations(points, values, noise=noise)


def _hypervolume(models: Sequence[SingleTaskGP], means: Tensor, sampler: SobolQMCNormalSampler) -> AcquisitionFunction:
    """Return the log expected hypervolume improvement over the front of the posterior means [n, m].

    It runs in pure Python. BoTorch would otherwise compile a C++ kernel on first use, which takes half a minute in each
    process, and proposals would depend on whether the machine has a compiler.
    """
    logei._load_attempted = True  # noqa: SLF001 - there is no public switch
    front = means[is_non_dominated(means)]
    reference = infer_reference_point(front, scale=REFERENCE_MARGIN)
    return logei.qLogExpectedHypervolumeImprovement(
        Marginals(models), reference, FastNondominatedPartitioning(reference, front), sampler=sampler
    )


def maximise(function: AcquisitionFunction, points: Floats, tried: Floats, *, polish: bool = True) -> Floats:
    """Return the candidate with the largest value [d]; a copy of a tried merge only if every candidate is one.

    Args:
        points: the candidates [n, d].
        tried: merges that are observed or pending [m, d].
        polish: improve the best candidates by L-BFGS first.
    """
    new = points[is_new(points, tried)]
    if not len(new):
        new = points
    values = evaluate(function, new)
    best = new[np.argsort(-values, kind="stable")[:POLISHED]]
    if not polish:
        return np.asarray(best[0])
    with library_warnings_ignored():
        optimised, _ = optimize_acqf(
            function,
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, points.shape[1]),
            q=1,
            num_restarts=len(best),
            batch_initial_conditions=torch.from_numpy(best)[:, None],
            options={"maxiter": POLISH_ITERATIONS},
            retry_on_optimization_warning=False,
        )
    polished = optimised.detach().numpy()
    return np.asarray(polished[0] if is_new(polished, tried)[0] else best[0])


def evaluate(function: AcquisitionFunction, points: Floats) -> Floats:
    """Evaluate the function at points [n, d]; returns [n]."""
    with torch.no_grad(), library_warnings_ignored():
        chunks: list[Tensor] = [function(chunk[:, None]) for chunk in torch.split(torch.from_numpy(points), CHUNK)]
    return np.asarray(torch.cat(chunks).numpy())
