"""When to split a section into blocks: once the finer search space promises enough more than the coarse one.

The *promise* of a search space is the largest value of the acquisition function in it (log expected improvement, or log
expected hypervolume improvement), found by L-BFGS from the best candidate of the coarse search. The promise of the
finer space is never smaller. As the search learns the coarse space, its promise falls, while the model remains
uncertain about a section whose blocks have never varied. A section is split as soon as that raises the expected
improvement by the factor SPLIT_FACTOR. If several do, the one that raises it most is split first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.search.depth.acquisition import evaluate
from optimizer.search.depth.gaussian_process import library_warnings_ignored
from optimizer.search.depth.ties import Subspace, Ties

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from botorch.acquisition.acquisition import AcquisitionFunction
    from botorch.optim import optimize_acqf

Floats = NDArray[np.float64]
SPLIT_FACTOR = 1.2
"""Increase of the expected improvement that justifies a split.

Never splitting lost much on landscapes with depth. Only 1.2 and 1.5 were tried, on a few landscapes.
"""
ITERATIONS = 25  # of L-BFGS, from the best candidate of the coarse search


class SubspaceAcquisition(AcquisitionFunction):  # type: ignore[misc]
    """An acquisition function restricted to a subspace: a function of its free values [..., 1, k]."""

    def __init__(self, inner: AcquisitionFunction, subspace: Subspace) -> None:
        super().__init__(model=inner.model)
        self.inner = inner
        self.register_buffer("embedding", torch.from_numpy(subspace.embedding.T.copy()))

    def forward(self, free: Tensor) -> Tensor:
        value: Tensor = self.inner(free @ self.embedding)
        return value


def section_to_split(function: AcquisitionFunction, ties: Ties, split: Sequence[str], points: Floats) -> str | None:
    """Return the section to split now; None if none is worth it yet.

    Args:
        function: log expected (hypervolume) improvement of scaled parameters [..., 1, d].
        split: the sections that are already split.
        points: candidates of the coarse search to start from, as free values [n, k].
    """
    tied = [label for label in ties.sections if label not in split]
    if not tied:
        return None
    coarse = ties.subspace(split)
    best_point = points[evaluate(SubspaceAcquisition(function, coarse), points).argmax()]
    start, promise = _local_maximum(function, coarse, best_point)
    promises = {}
    for label in tied:
        finer = ties.subspace([*split, label])
        promises[label] = _local_maximum(function, finer, finer.project(coarse.embed(start)))[1]
    best = max(tied, key=promises.__getitem__)
    return best if promises[best] > promise + math.log(SPLIT_FACTOR) else None


def _local_maximum(function: AcquisitionFunction, subspace: Subspace, start: Floats) -> tuple[Floats, float]:
    """Maximise by L-BFGS from free values [k]; returns the maximiser [k] and the function there."""
    with library_warnings_ignored():
        maximiser, value = optimize_acqf(
            SubspaceAcquisition(function, subspace),
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, len(start)),
            q=1,
            num_restarts=1,
            batch_initial_conditions=torch.from_numpy(start)[None, None],
            options={"maxiter": ITERATIONS},
            retry_on_optimization_warning=False,
        )
    return maximiser.detach().numpy()[0], float(value)
