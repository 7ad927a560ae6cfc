"""Means over items that count differently, or that a scorer leaves out, with their standard errors.

An item is an image or, where the means of prompts are averaged, a prompt: see by_prompt.py.

Notation, for one scorer or for several that leave out the same items:
    x_i   value of item i; NaN where it is left out, as if the suite did not have it
    w_i   its weight, positive
    a_i = w_i / sum(w)      its share
    m = sum(a_i x_i)        the weighted mean
    e_i = x_i - m           a residual; with equal variances its own is v_i = 1 - 2 a_i + sum(a_j^2) times theirs

The squared standard error is sum(a_i^2 e_i^2 / v_i). With equal variances it is unbiased, and it stays consistent where
items of some weight vary more than others: the estimator HC2 of MacKinnon and White 1985, "Some
heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties", J. Econometrics 29,
for a mean. A few heavy items make it less certain than their number suggests, so Student's t has as many degrees of
freedom as Bell and McCaffrey 2002, "Bias reduction in standard errors for linear regression with multi-stage samples",
Survey Methodology 28 (2), give it (Satterthwaite's approximation): sum(a_i^2)^2 / sum_ij(d_i d_j c_ij^2) with
d_i = a_i^2 / v_i, and c_ij the covariance of e_i and e_j: v_i for i = j, else sum(a_k^2) - a_i - a_j.

With equal weights all of this is the plain mean, its usual standard error and one degree of freedom less than there are
items; it is then computed by the plain formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]  # [items]; NaN where an item is left out

SURELY_ONE = 1 - 1e-9  # a sum of squared shares from which on a single item counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What the standard error of a mean, or of a sum of means, is made of."""

    contributions: Values  # [items]; the squared standard error is the sum of their squares
    freedom: float  # effective degrees of freedom

    @property
    def error(self) -> float:
        """The standard error."""
        return float(np.sqrt(np.sum(self.contributions**2)))


def plain_values(values: Values, weights: NDArray[np.float64] | None) -> Values | None:
    """Return the values that are not left out if they count alike; None if they do not."""
    present = ~np.isnan(values)
    kept = values if present.all() else values[present]
    if weights is None:
        return kept
    counting = weights[present]
    return kept if not counting.size or (counting == counting[0]).all() else None


def weighted_mean(values: Values, weights: NDArray[np.float64] | None) -> float | None:
    """Return the mean of the values that are not left out; None if all are.

    Args:
        weights: [items]; None: all count alike.
    """
    plain = plain_values(values, weights)
    if plain is not None:
        return float(plain.mean()) if plain.size else None
    share = shares(values, weights)
    return float(np.sum(share * np.where(np.isnan(values), 0.0, values)))


def grouped(lines: Iterable[Values]) -> list[Values]:
    """Sum the lines that leave out the same items."""
    sums: dict[bytes, Values] = {}
    for line in lines:
        key = np.isnan(line).tobytes()
        sums[key] = sums.get(key, np.zeros(line.size)) + line
    return list(sums.values())


def spread(values: Values, weights: NDArray[np.float64] | None) -> Spread | None:
    """Return the spread of a weighted mean; None if fewer than two items count."""
    share = shares(values, weights)
    known = np.where(share > 0, values, 0.0)
    return spread_of_residuals(known - np.sum(share * known), share)


def spread_of_residuals(residuals: Values, share: Values) -> Spread | None:
    """Return the spread of a mean; None if fewer than two items count.

    Args:
        residuals: e [items]; those of items without a share do not matter.
        share: a [items], with the sum 1.
    """
    squares = float(np.sum(share**2))
    if not 0 < squares < SURELY_ONE:
        return None
    variance = (1 - share) ** 2 + (squares - share**2)  # 1 - 2 a + sum(a^2), without cancellation
    factor = share**2 / variance
    half = squares / 2 - share  # c_ij = half_i + half_j for i != j
    doubled = 2 * np.sum(factor) * np.sum(factor * half**2) + 2 * np.sum(factor * half) ** 2
    own = np.sum(factor**2 * (variance**2 - 4 * half**2))
    return Spread(contributions=np.sqrt(factor) * residuals, freedom=float(squares**2 / (doubled + own)))


def spread_of_sum(parts: Sequence[Spread | None]) -> Spread | None:
    """Return the spread of the sum of some means over the same items; None if one of them has none.

    The degrees of freedom are the smallest of any, which errs on the side of a wider interval.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    contributions = np.sum([part.contributions for part in known], axis=0)
    return Spread(contributions=contributions, freedom=min(part.freedom for part in known))


def unseen_share(seen: Values, whole: Values, weights: NDArray[np.float64] | None) -> float:
    """Return by which factor the variance of a mean shrinks that is to be the whole suite's, part of which is known.

    With equal weights it is the finite population correction 1 - n / N: the mean of what is not seen yet is predicted
    by that of what is, and each has its own error.

    Args:
        seen: [items]; NaN where an item is left out or not seen yet.
        whole: [items]; NaN where it is left out.
    """
    in_whole, in_seen = ~np.isnan(whole), ~np.isnan(seen)
    if weights is None or plain_values(whole, weights) is not None:
        return 1 - int(in_seen.sum()) / int(in_whole.sum())
    scaled = weights / weights.max()
    total, known = float(scaled[in_whole].sum()), float(scaled[in_seen].sum())
    squares, seen_squares = float(np.sum(scaled[in_whole] ** 2)), float(np.sum(scaled[in_seen] ** 2))
    error = seen_squares / known**2  # of the seen mean, in units of an item's variance
    return ((squares - seen_squares) + (total - known) ** 2 * error) / (total**2 * error)


def shares(values: Values, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the share of each item, [items], with the sum 1; 0 where it is left out."""
    present = ~np.isnan(values)
    given = np.where(present, 1.0 if weights is None else weights, 0.0)
    scaled = given / given.max(initial=0.0) if present.any() else given  # weights of any size have a finite sum so
    total = float(scaled.sum())
    return scaled / total if total else scaled
