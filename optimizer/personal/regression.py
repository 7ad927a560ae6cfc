"""Logistic regression on differences of embeddings, with what it is worth on votes that it did not see.

The model is that of Bradley and Terry with linear utilities: the first of two renders is preferred with the probability
1 / (1 + exp(-x w)), where x is the difference of their embeddings. "Equal" and "both bad" are half a vote for either.
A penalty on the square of w keeps few votes from saying much (ridge). It is chosen by cross-validation. The agreement
comes from an outer one, whose held-out votes had no part in that choice (nested cross-validation).

Notation: m comparisons of embeddings of width d; x [m, d], y [m], w [d]; z [m, r] is x in an orthonormal basis of its
rows, in which the solution lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizer.trial.share_interval import wilson_interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Penalties that are tried, in mean squares of a difference, the smoothest first: 1 lets scores of two usual renders
#: differ by about 1 in log-odds, 0.01 by about 10.
PENALTIES: Final = (100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
OUTER_FOLDS: Final = 5
INNER_FOLDS: Final = 4
FEWEST_GROUPS: Final = 3  # so that two are left to choose the penalty by when one is held out
MOST_STEPS: Final = 50  # of Newton's method; it takes fewer than ten
CLOSE: Final = 1e-6  # of the score of a usual difference, in log-odds; a step that is smaller ends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """With how many held-out votes a head agrees, of those that prefer one of two renders."""

    agreed: int
    votes: int

    @property
    def share(self) -> float:
        """The share of votes, 0..1; 0 without any."""
        return self.agreed / self.votes if self.votes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (Wilson); everything without any votes."""
        return wilson_interval(self.agreed, self.votes) if self.votes else (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Comparisons as numbers."""

    x: Floats  # [m, d], embedding of the first render less that of the second
    y: Floats  # [m], 1 where the first is preferred, 0 where the second is, 0.5 where neither
    groups: Integers  # [m]; comparisons of one group are never on both sides of a split

    @property
    def decided(self) -> NDArray[np.bool_]:
        """Which of them prefer one of the two renders [m]."""
        return np.asarray(self.y != 0.5)

    def rows(self, which: NDArray[np.bool_]) -> Differences:
        """Return some of them."""
        return Differences(x=self.x[which], y=self.y[which], groups=self.groups[which])


def held_out_agreement(differences: Differences) -> Agreement:
    """Return with how many votes heads agree that were trained without the votes of their groups."""
    reduced, agreed = _reduced(differences), 0
    for held in folds(reduced.groups, OUTER_FOLDS):
        part, rest = reduced.rows(held), reduced.rows(~held)
        scores = part.x @ fit(rest, choose_penalty(rest))
        agreed += int(((scores > 0) == (part.y > 0.5))[part.decided & (scores != 0)].sum())
    return Agreement(agreed=agreed, votes=int(reduced.decided.sum()))


def trained(differences: Differences) -> Floats:
    """Train on all comparisons, and return the weights w [d]."""
    basis = _basis(differences.x)
    reduced = _in_basis(differences, basis)
    return np.asarray(basis @ fit(reduced, choose_penalty(reduced)))


def choose_penalty(differences: Differences) -> float:
    """Choose the penalty under which held-out votes are most likely; the largest where all are equally so."""
    losses = np.zeros(len(PENALTIES))
    for held in folds(differences.groups, INNER_FOLDS):
        part, rest = differences.rows(held), differences.rows(~held)
        start = None
        for index, penalty in enumerate(PENALTIES):
            start = fit(rest, penalty, start)
            losses[index] += _loss(part, start)
    return PENALTIES[int(np.argmin(losses))]


def folds(groups: Integers, count: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which comparisons [m] are held out together: whole groups, about as many comparisons each time."""
    names, sizes = np.unique(groups, return_counts=True)
    shuffled = np.random.default_rng(0).permutation(len(names))
    order = sorted(shuffled, key=lambda index: -sizes[index])
    parts: list[list[int]] = [[] for _ in range(min(count, len(names)))]
    for index in order:
        lightest = min(parts, key=lambda part: sum(sizes[each] for each in part))
        lightest.append(index)
    for part in parts:
        yield np.isin(groups, names[part])


def fit(differences: Differences, penalty: float, start: Floats | None = None) -> Floats:
    """Return the weights w [d] that are most likely under a penalty, by Newton's method.

    Args:
        penalty: in mean squares of a difference.
        start: weights near the solution, if some are known.
    """
    x, y = differences.x, differences.y
    square = float(np.square(x).sum(axis=1).mean())
    ridge = penalty * square if square > 0 else 1.0
    weights = np.zeros(x.shape[1]) if start is None else start
    for _ in range(MOST_STEPS):
        chance = 0.5 * (1 + np.tanh(x @ weights / 2))
        gradient = x.T @ (y - chance) - ridge * weights
        hessian = (x * (chance * (1 - chance))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.linalg.norm(step) * np.sqrt(square) < CLOSE:
            break
    return np.asarray(weights)


def _loss(differences: Differences, weights: Floats) -> float:
    """Return the negative logarithm of the probability of votes."""
    scores = differences.x @ weights
    return float((np.logaddexp(0, -scores) + (1 - differences.y) * scores).sum())


def _basis(x: Floats) -> Floats:
    """Return an orthonormal basis of the rows of x [d, r]: few votes have few dimensions."""
    _, values, rows = np.linalg.svd(x, full_matrices=False)
    return np.asarray(rows[values > values.max(initial=0.0) * 1e-9].T)


def _in_basis(differences: Differences, basis: Floats) -> Differences:
    return Differences(x=differences.x @ basis, y=differences.y, groups=differences.groups)


def _reduced(differences: Differences) -> Differences:
    return _in_basis(differences, _basis(differences.x))


def grouped(names: Sequence[object]) -> Integers:
    """Return a number for each name [m], the same for equal ones."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)
