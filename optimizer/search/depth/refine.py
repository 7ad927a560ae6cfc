"""When to split a section into blocks: once the merges that this opens promise enough more.

The promise of a search space is the largest expected improvement in it (log expected improvement, or that of the
hypervolume), found from the best candidate of the coarse search upwards along the gradient. That of the finer space is
never smaller. As the search learns the coarse space, its promise falls, while a section whose blocks never varied keeps
its uncertainty. A section is split as soon as that raises the promise by the factor WORTH. The one that raises it most
comes first.
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
from optimizer.search.depth.gaussian_process import quiet
from optimizer.search.depth.ties import Subspace, Ties

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from botorch.acquisition.acquisition import AcquisitionFunction
    from botorch.optim import optimize_acqf

Floats = NDArray[np.float64]
WORTH = 1.2
"""Of the promise. Never splitting lost much on landscapes with depth; 1.2 and 1.5 were tried, on a few."""
ITERATIONS = 25  # of L-BFGS, from the best merge of the coarse search


class Lifted(AcquisitionFunction):  # type: ignore[misc]
    """An acquisition function as one of the free values [..., 1, k] of a subspace."""

    def __init__(self, inner: AcquisitionFunction, subspace: Subspace) -> None:
        super().__init__(model=inner.model)
        self.inner = inner
        self.register_buffer("lift", torch.from_numpy(subspace.lift.T.copy()))

    def forward(self, free: Tensor) -> Tensor:
        value: Tensor = self.inner(free @ self.lift)
        return value


def to_split(function: AcquisitionFunction, ties: Ties, split: Sequence[str], points: Floats) -> str | None:
    """The section to split now, or None.

    Args:
        function: log expected improvement of scaled parameters, or that of the hypervolume.
        split: the sections that are split already.
        points: merges of the coarse search to start from, as free values [m, k].
    """
    tied = [label for label in ties.sections if label not in split]
    if not tied:
        return None
    coarse = ties.subspace(split)
    start, promise = _climb(function, coarse, points[evaluate(Lifted(function, coarse), points).argmax()])
    promises = {}
    for label in tied:
        finer = ties.subspace([*split, label])
        promises[label] = _climb(function, finer, finer.down(coarse.up(start)))[1]
    best = max(tied, key=promises.__getitem__)
    return best if promises[best] > promise + math.log(WORTH) else None


def _climb(function: AcquisitionFunction, subspace: Subspace, start: Floats) -> tuple[Floats, float]:
    """Up the gradient from free values [k]: where it ends, and the function there."""
    with quiet():
        found, value = optimize_acqf(
            Lifted(function, subspace),
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, len(start)),
            q=1,
            num_restarts=1,
            batch_initial_conditions=torch.from_numpy(start)[None, None],
            options={"maxiter": ITERATIONS},
            retry_on_optimization_warning=False,
        )
    return found.detach().numpy()[0], float(value)
