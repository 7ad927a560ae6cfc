"""The Gaussian process behind the depth-aware sampler.

    value(x) ~ c + GP(0, a1 k(W x; l1) + a2 k(x; l2)) + noise

k is the Matern-5/2 kernel. W x are the depth features, with one length scale each; l2 has one length scale for each
section. All hyperparameters are maximum a posteriori estimates under log-normal priors, so a1 and a2 say how much of
the landscape follows depth. Sums of kernels, fit and posterior are GPyTorch's and BoTorch's.

x: parameters scaled to 0..1 [n, d]. Values are robustly standardised, larger is better (see `observations.Scale`).
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

with warnings.catch_warnings():  # linear_operator uses torch.jit.script, which newer versions of torch deprecate
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
"""What fitting or predicting raises if no sensible model fits the values."""
FIT_ITERATIONS = 30
"""Of L-BFGS, starting at the priors' medians. More iterations hardly change the proposals."""
MAX_FITTED = 120
"""With more values than this, hyperparameters are fitted to this many, evenly spaced; the posterior uses all values."""
MIN_NOISE = 1e-5  # variance, in standardised units
MIN_SQUARE = 1e-15  # of a distance, whose square root has no gradient at 0


@contextmanager
def library_warnings_ignored() -> Iterator[None]:
    """Ignore BoTorch's and GPyTorch's warnings, such as those about jitter and iteration limits. Errors pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class LinearMatern(Kernel):  # type: ignore[misc]  # GPyTorch has no types
    """A Matern-5/2 kernel over linear functions of the inputs, which may share length scales.

    Args:
        weights: of the linear functions [f, d].
        groups: index of the length scale of each linear function [f].
        median: of the length scales' log-normal prior.
        deviation: standard deviation of the log length scale under that prior.
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
        """Always empty: one kernel, never a batch. GPyTorch would otherwise walk over its parts at every call."""
        return torch.Size()

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: object) -> Tensor:
        """Return the covariance [..., n, m] of x1 [..., n, d] and x2 [..., m, d]; of pairs [..., n] with `diag`."""
        scales = self.lengthscale[..., self.groups]
        first = x1 @ self.weights.T / scales
        second = first if x1 is x2 else x2 @ self.weights.T / scales
        if diag:
            squared = (first - second).square().sum(dim=-1)
        else:
            lengths = [side.square().sum(dim=-1, keepdim=True) for side in (first, second)]
            squared = lengths[0] + lengths[1].mT - 2 * first @ second.mT
        distance = (5 * squared.clamp_min(MIN_SQUARE)).sqrt()
        covariance: Tensor = (1 + distance + distance.square() / 3) * torch.exp(-distance)
        return covariance


# The log-normal priors. A deviation is the standard deviation of the logarithm.
DEPTH_SCALE = 0.8  # median length scale of the depth features, divided by the square root of their number
RATIO_SCALE = 0.4  # the same for the parameters themselves
SCALE_DEVIATION = 0.5
DEPTH_VARIANCE, RATIO_VARIANCE, VARIANCE_DEVIATION = 0.6, 0.4, 1.0  # medians of a1 and a2, and the deviation of both
NOISE_VARIANCE, NOISE_DEVIATION = 0.1, 1.5


def kernel_of(geometry: Geometry) -> Kernel:
    """Return the sum of both kernels; only that of the parameters if there are no depth features."""
    if not geometry.features:
        return ratio_kernel(geometry, 1.0)
    weights = torch.from_numpy(geometry.weights)
    median = max(DEPTH_SCALE * math.sqrt(len(weights)), 0.4)
    depth = LinearMatern(weights, tuple(range(len(weights))), median, SCALE_DEVIATION)
    return AdditiveKernel(_scaled(depth, DEPTH_VARIANCE), ratio_kernel(geometry, RATIO_VARIANCE))


def ratio_kernel(geometry: Geometry, variance: float) -> Kernel:
    """Return the kernel of the parameters."""
    count = len(geometry.names)
    median = max(RATIO_SCALE * math.sqrt(count), 0.4)
    ratios = LinearMatern(torch.eye(count, dtype=torch.double), geometry.groups, median, SCALE_DEVIATION)
    return _scaled(ratios, variance)


def _scaled(kernel: Kernel, variance: float) -> Kernel:
    return ScaleKernel(
        kernel,
        outputscale_prior=LogNormalPrior(math.log(variance), VARIANCE_DEVIATION),
        outputscale_constraint=LogTransformedInterval(1e-4, 1e2, initial_value=variance),
    )


def fit(geometry: Geometry, x: Floats, z: Floats) -> SingleTaskGP:
    """Fit the model to standardised values.

    Args:
        x: [n, d], n >= 1.
        z: [n].

    Raises:
        NUMERICAL_ERRORS: no sensible model fits the values.
    """
    with library_warnings_ignored():
        model = _prior(geometry, x, z)
        if len(z) <= MAX_FITTED:
            return _fitted(model).eval()
        subset = np.linspace(0, len(z) - 1, MAX_FITTED).astype(int)
        sample = _fitted(_prior(geometry, x[subset], z[subset]))
        model.covar_module.load_state_dict(sample.covar_module.state_dict())
        model.mean_module.load_state_dict(sample.mean_module.state_dict())
        model.likelihood.load_state_dict(sample.likelihood.state_dict())
    return model.eval()


def _prior(geometry: Geometry, x: Floats, z: Floats) -> SingleTaskGP:
    """Return the model with its hyperparameters at the priors' medians."""
    likelihood = GaussianLikelihood(
        noise_prior=LogNormalPrior(math.log(NOISE_VARIANCE), NOISE_DEVIATION),
        noise_constraint=LogTransformedInterval(MIN_NOISE, 10.0, initial_value=NOISE_VARIANCE),
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
    """Return mean [n] and standard deviation [n] of the noise-free standardised value at each point of x [n, d]."""
    with torch.no_grad(), library_warnings_ignored():
        of_points = model.posterior(torch.from_numpy(x))
        return of_points.mean[:, 0].numpy(), of_points.variance[:, 0].clamp_min(0.0).sqrt().numpy()
