"""The Gaussian process behind the depth-aware sampler.

    value(x) ~ c + GP(0, a1 k(W x; l1) + a2 k(x; l2)) + noise

k is the Matern-5/2 kernel, W x are the depth features with a length scale each, l2 has one length scale for each
section. All are fitted by their most probable values under log-normal priors, so that a1 and a2 settle how much of
the landscape follows depth. Sums of kernels, fit and posterior are GPyTorch's and BoTorch's.

x: parameters scaled to 0..1 [n, d]. Values are standardised robustly, larger is better.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.search.depth.features import Geometry

with warnings.catch_warnings():  # linear_operator scripts functions with torch.jit, which newer torch warns of
    warnings.simplefilter("ignore")
    from botorch.exceptions.errors import ModelFittingError, OptimizationGradientError
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.models import SingleTaskGP
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from botorch.utils.constraints import LogTransformedInterval
    from gpytorch.kernels import AdditiveKernel, Kernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator.utils.errors import NanError, NotPSDError
    from linear_operator.utils.warnings import NumericalWarning

Floats = NDArray[np.float64]
NUMERICAL_ERRORS = (ModelFittingError, OptimizationGradientError, NanError, NotPSDError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
"""What fitting or predicting may end in where the values allow no sensible model."""
FIT_ITERATIONS = 30
"""Of L-BFGS, from the priors' medians; more change the proposals little."""
MOST_FITTED = 120
"""Of more values than these, as many spread over the study fit the parameters; all of them make the posterior."""
LEAST_NOISE = 1e-5  # variance, in standardised units
LEAST_SQUARE = 1e-15  # of a distance, whose root would else have no slope


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' remarks about jitter and iteration limits; errors pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class LinearMatern(Kernel):  # type: ignore[misc]  # GPyTorch has no types
    """Matern-5/2 over linear functions of the inputs, which share length scales in groups.

    Args:
        weights: [f, d]
        groups: the length scale of each of the f functions.
        median: of the length scales' log-normal prior.
    """

    has_lengthscale = True

    def __init__(self, weights: Tensor, groups: tuple[int, ...], median: float, deviation: float) -> None:
        super().__init__(
            ard_num_dims=max(groups) + 1,
            lengthscale_prior=LogNormalPrior(math.log(median), deviation),
            lengthscale_constraint=LogTransformedInterval(1e-2, 1e2, initial_value=median),
        )
        self.register_buffer("weights", weights)
        self.register_buffer("groups", torch.tensor(groups))

    @property
    def batch_shape(self) -> torch.Size:
        """One kernel, never a batch; GPyTorch would look for parts in it at every call."""
        return torch.Size()

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: object) -> Tensor:
        """[..., n, d], [..., m, d] -> [..., n, m], or [..., n] of pairs with `diag`."""
        scales = self.lengthscale[..., self.groups]
        first = x1 @ self.weights.T / scales
        second = first if x1 is x2 else x2 @ self.weights.T / scales
        if diag:
            squared = (first - second).square().sum(dim=-1)
        else:
            lengths = [side.square().sum(dim=-1, keepdim=True) for side in (first, second)]
            squared = lengths[0] + lengths[1].mT - 2 * first @ second.mT
        distance = (5 * squared.clamp_min(LEAST_SQUARE)).sqrt()
        covariance: Tensor = (1 + distance + distance.square() / 3) * torch.exp(-distance)
        return covariance


DEPTH_SCALE = 0.8  # median length scale per square root of dimensions, of the depth features
RATIO_SCALE = 0.4  # and of the parameters themselves
SCALE_DEVIATION = 0.5
DEPTH_VARIANCE, RATIO_VARIANCE, VARIANCE_DEVIATION = 0.6, 0.4, 1.0
NOISE_VARIANCE, NOISE_DEVIATION = 0.1, 1.5


def kernel_of(geometry: Geometry) -> Kernel:
    """The sum of both parts; the parameters alone where depth features say nothing more."""
    count = len(geometry.names)
    median = max(RATIO_SCALE * math.sqrt(count), 0.4)
    ratios = LinearMatern(torch.eye(count, dtype=torch.double), geometry.groups, median, SCALE_DEVIATION)
    if not geometry.features:
        return _scaled(ratios, 1.0)
    weights = torch.from_numpy(geometry.weights)
    median = max(DEPTH_SCALE * math.sqrt(len(weights)), 0.4)
    depth = LinearMatern(weights, tuple(range(len(weights))), median, SCALE_DEVIATION)
    return AdditiveKernel(_scaled(depth, DEPTH_VARIANCE), _scaled(ratios, RATIO_VARIANCE))


def _scaled(kernel: Kernel, variance: float) -> Kernel:
    return ScaleKernel(
        kernel,
        outputscale_prior=LogNormalPrior(math.log(variance), VARIANCE_DEVIATION),
        outputscale_constraint=LogTransformedInterval(1e-4, 1e2, initial_value=variance),
    )


def fit(geometry: Geometry, x: Floats, z: Floats) -> SingleTaskGP:
    """The most probable model of standardised values.

    Args:
        x: [n, d], n >= 1. z: [n].
    """
    with quiet():
        model = _prior(geometry, x, z)
        if len(z) <= MOST_FITTED:
            return _fitted(model).eval()
        few = np.linspace(0, len(z) - 1, MOST_FITTED).astype(int)
        sample = _fitted(_prior(geometry, x[few], z[few]))
        model.covar_module.load_state_dict(sample.covar_module.state_dict())
        model.mean_module.load_state_dict(sample.mean_module.state_dict())
        model.likelihood.load_state_dict(sample.likelihood.state_dict())
    return model.eval()


def _prior(geometry: Geometry, x: Floats, z: Floats) -> SingleTaskGP:
    """The model with its most usual parameters."""
    likelihood = GaussianLikelihood(
        noise_prior=LogNormalPrior(math.log(NOISE_VARIANCE), NOISE_DEVIATION),
        noise_constraint=LogTransformedInterval(LEAST_NOISE, 10.0, initial_value=NOISE_VARIANCE),
    )
    return SingleTaskGP(
        torch.from_numpy(x),
        torch.from_numpy(z)[:, None],
        likelihood=likelihood,
        covar_module=kernel_of(geometry),
        outcome_transform=None,
    )


def _fitted(model: SingleTaskGP) -> SingleTaskGP:
    fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(model.likelihood, model), options={"maxiter": FIT_ITERATIONS})
    return model


def posterior(model: SingleTaskGP, x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the noise-free standardised value at each of x [n, d]: [n], [n]."""
    with torch.no_grad(), quiet():
        found = model.posterior(torch.from_numpy(x))
        return found.mean[:, 0].numpy(), found.variance[:, 0].clamp_min(0.0).sqrt().numpy()
