"""Proposals from values that are smoothed already, as those of votes are.

A preference is the mean of a posterior in which like merges have like values. To fit a noise and length scales to such
values once more would take their smoothness for a property of the merges. So they are interpolated, with the kernel
under which they were smoothed, and the merge with the best interpolated value is tried next. A few dozen votes hardly
tell good merges apart: expected improvement then spends most trials where nothing is known, and little is known of any
of them in the end (docs/explanation/benchmarks.md).
"""

from __future__ import annotations

import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.likelihoods import GaussianLikelihood
from numpy.typing import NDArray

from optimizer.search.depth.features import Geometry
from optimizer.search.depth.gaussian_process import library_warnings_ignored, posterior, ratio_kernel

Floats = NDArray[np.float64]
NOISE = 1e-4  # variance in standardised units: enough for a matrix of near neighbours to be inverted
APART = 0.05  # root mean square difference of the parameters that merges in progress keep from each other


def interpolated(geometry: Geometry, x: Floats, z: Floats) -> SingleTaskGP:
    """Return the model that passes through smoothed values.

    Args:
        x: [n, d], n >= 1.
        z: [n], standardised.
    """
    with library_warnings_ignored():
        likelihood = GaussianLikelihood()
        likelihood.noise = torch.tensor([NOISE], dtype=torch.double)
        model = SingleTaskGP(
            torch.from_numpy(x),
            torch.from_numpy(z)[:, None],
            likelihood=likelihood,
            covar_module=ratio_kernel(geometry, 1.0),
            outcome_transform=None,
        )
        model.mean_module.constant.data.fill_(float(z.mean()))
    return model.eval()


def best_mean(model: SingleTaskGP, points: Floats, pending: Floats) -> Floats:
    """Return the candidate with the best interpolated value [d], away from the merges that nobody has judged yet.

    Args:
        points: the candidates [n, d].
        pending: [p, d].
    """
    if len(pending):
        away = np.sqrt(np.square(points[:, None] - pending[None]).mean(axis=-1)).min(axis=1)
        points = points[away >= min(APART, away.max())]
    return np.asarray(points[int(np.argmax(posterior(model, points)[0]))])
