"""What votes say of the trials of a study: a utility for each, with its uncertainty.

The model is that of Bradley and Terry (1952): a render of trial i is preferred to one of trial j with the probability
1 / (1 + exp(u_j - u_i)), where u are the utilities in log-odds. "Equal" and "both bad" count as half a vote for either.
Utilities have a normal prior with mean 0, under which trials with like ratios have like utilities. How far utilities
lie apart is not known: the posterior is the average over several priors, each weighted by how well it explains the
votes (the evidence). So few votes, or votes at random, move nothing far. For each prior the posterior is approximated
by a normal one at its mode (Laplace).

Notation: n trials, m comparisons; u [n].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizer.trial.share_interval import Z95, wilson_interval
from studies.records.votes import SHARES, Vote

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Standard deviations of the prior that are tried, in log-odds. With the smallest, every pair is nearly even; with the
# largest, the better of two typical trials is preferred in 98 of 100 votes.
SPREADS: Final = (0.1, 0.3, 0.6, 1.0, 1.6, 2.8)
# Length scale of the ratios, in the distance between opposite corners of the search space: the median of the prior that
# the depth-aware sampler has for it. Too few votes are cast to learn another.
LENGTH: Final = 0.4
OWN: Final = 1e-6  # share of the prior's variance that is a trial's own; merges of the same ratios look the same
MOST_STEPS: Final = 100  # of Newton's method; it takes fewer than ten
CLOSE: Final = 1e-9  # log-odds; a step that is smaller ends it


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Votes as numbers: in each, the first trial gets `share` of the vote, and the second the rest."""

    first: Integers  # [m], index of a trial
    second: Integers  # [m]
    share: Floats  # [m], 1, 0.5 or 0


@dataclass(frozen=True, kw_only=True)
class Preference:
    """The posterior of the utilities."""

    numbers: tuple[int, ...]  # of the trials, in the order of the arrays
    mean: Floats  # [n], in log-odds; 0 is the average trial
    covariance: Floats  # [n, n]

    def lead(self, number: int, over: int) -> Lead:
        """Return how far a trial is ahead of another."""
        index, other = self.numbers.index(number), self.numbers.index(over)
        value = float(self.mean[index] - self.mean[other])
        variance = self.covariance[index, index] + self.covariance[other, other] - 2 * self.covariance[index, other]
        return Lead(value=value, error=math.sqrt(max(float(variance), 0.0)))

    @property
    def ranked(self) -> tuple[int, ...]:
        """The numbers of the trials, the most preferred first."""
        return tuple(self.numbers[index] for index in np.argsort(-self.mean, kind="stable"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """How far a trial is ahead of another, in log-odds."""

    value: float
    error: float  # its standard deviation

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.value - Z95 * self.error

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.value + Z95 * self.error

    @property
    def probability(self) -> float:
        """How likely a render of the trial is preferred to one of the other, at the mean of the lead."""
        return float(_probability(np.array(self.value)))


def fit(votes: Sequence[Vote], numbers: Sequence[int], points: Mapping[int, Floats] | None = None) -> Preference:
    """Fit the utilities of trials to votes.

    Args:
        votes: those on other trials are left out.
        numbers: of the trials, without repeats, at least one.
        points: number -> the trial's ratios [d], scaled to 0..1 by their bounds; a trial without any has no neighbours.
    """
    compared = comparisons(votes, {number: index for index, number in enumerate(numbers)})
    apart = _distances(numbers, points or {})
    alike = _correlation(apart)
    fits = [_fit(compared, spread**2 * alike) for spread in SPREADS]
    weights = np.exp([evidence for _, _, evidence in fits] - np.max([evidence for _, _, evidence in fits]))
    weights /= weights.sum()
    mean = np.einsum("p,pn->n", weights, np.array([mean for mean, _, _ in fits]))
    covariance = sum(
        weight * (covariance + np.outer(own - mean, own - mean))
        for weight, (own, covariance, _) in zip(weights, fits, strict=True)
    )
    return Preference(numbers=tuple(numbers), mean=mean, covariance=np.asarray(covariance))


def _distances(numbers: Sequence[int], points: Mapping[int, Floats]) -> Floats:
    """Return how far apart the ratios of trials are [n, n], in diagonals of the space; inf where one has none."""
    count = len(numbers)
    apart = np.full((count, count), np.inf)
    placed = [index for index, number in enumerate(numbers) if number in points]
    if placed:
        x = np.array([points[numbers[index]] for index in placed])
        squares = np.square(x[:, None] - x[None]).mean(axis=-1)
        apart[np.ix_(placed, placed)] = np.sqrt(squares)
    np.fill_diagonal(apart, 0.0)
    return apart


def _correlation(apart: Floats) -> Floats:
    """Return the correlation of utilities under the prior [n, n]: the Matern-5/2 kernel of their distances [n, n]."""
    scaled = math.sqrt(5) / LENGTH * np.where(np.isfinite(apart), apart, 0.0)
    smooth = np.where(np.isfinite(apart), (1 + scaled + np.square(scaled) / 3) * np.exp(-scaled), 0.0)
    return np.asarray((1 - OWN) * smooth + OWN * np.eye(len(apart)))


def comparisons(votes: Sequence[Vote], index: Mapping[int, int]) -> Comparisons:
    """Return votes on these trials as numbers.

    Args:
        index: number of a trial -> its place.
    """
    counted = [
        (index[vote.left], index[vote.right], SHARES[vote.verdict])
        for vote in votes
        if vote.verdict is not None and vote.left in index and vote.right in index
    ]
    return Comparisons(
        first=np.array([first for first, _, _ in counted], dtype=np.int64),
        second=np.array([second for _, second, _ in counted], dtype=np.int64),
        share=np.array([share for _, _, share in counted], dtype=np.float64),
    )


def _fit(compared: Comparisons, prior: Floats) -> tuple[Floats, Floats, float]:
    """Return mean [n] and covariance [n, n] of the posterior, and the logarithm of the evidence, all by Laplace.

    Args:
        prior: covariance of the prior [n, n].
    """
    count = len(prior)
    precision, utilities = np.linalg.inv(prior), np.zeros(count)
    for _ in range(MOST_STEPS):
        chance = _probability(utilities[compared.first] - utilities[compared.second])
        gradient = _summed(compared, compared.share - chance, count) - precision @ utilities
        hessian = _curvature(compared, chance, count) + precision
        step = np.linalg.solve(hessian, gradient)
        utilities = utilities + step
        if np.abs(step).max() < CLOSE:
            break
    difference = utilities[compared.first] - utilities[compared.second]
    chance = _probability(difference)
    hessian = _curvature(compared, chance, count) + precision
    # log(1 - p) = log p - difference, so a vote of share s has the logarithm log p - (1 - s) difference.
    likelihood = float((-np.logaddexp(0, -difference) - (1 - compared.share) * difference).sum())
    evidence = likelihood - 0.5 * float(utilities @ precision @ utilities)
    evidence += 0.5 * float(np.linalg.slogdet(precision)[1] - np.linalg.slogdet(hessian)[1])
    return utilities, np.linalg.inv(hessian), evidence


def _probability(difference: Floats) -> Floats:
    """Return the chance of the first of two whose utilities differ by this much."""
    return np.asarray(0.5 * (1 + np.tanh(difference / 2)))


def _summed(compared: Comparisons, residual: Floats, count: int) -> Floats:
    """Add residuals [m] up for each trial: plus for the first of a pair, minus for the second."""
    total = np.zeros(count)
    np.add.at(total, compared.first, residual)
    np.add.at(total, compared.second, -residual)
    return total


def _curvature(compared: Comparisons, chance: Floats, count: int) -> Floats:
    """Return the negative Hessian of the log-likelihood [n, n]."""
    weight, total = chance * (1 - chance), np.zeros((count, count))
    np.add.at(total, (compared.first, compared.first), weight)
    np.add.at(total, (compared.second, compared.second), weight)
    np.add.at(total, (compared.first, compared.second), -weight)
    np.add.at(total, (compared.second, compared.first), -weight)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The votes between two trials, as they were given."""

    preferred: int  # of the first trial
    other: int  # votes for the second
    undecided: int  # equal, or both bad

    @property
    def count(self) -> int:
        """All votes between them."""
        return self.preferred + self.other + self.undecided

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the share of votes for the first, of those that prefer one; None without any."""
        decided = self.preferred + self.other
        return wilson_interval(self.preferred, decided) if decided else None


def tally(votes: Sequence[Vote], number: int, over: int) -> Tally:
    """Count the votes between two trials."""
    preferred = other = undecided = 0
    for vote in votes:
        if {vote.left, vote.right} != {number, over} or vote.verdict is None:
            continue
        if vote.verdict not in ("left", "right"):
            undecided += 1
        elif (vote.left if vote.verdict == "left" else vote.right) == number:
            preferred += 1
        else:
            other += 1
    return Tally(preferred=preferred, other=other, undecided=undecided)
