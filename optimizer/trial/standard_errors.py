"""Standard errors and intervals of scores and of their differences, over prompts: see by_prompt.py.

The interval is Student's. Image scores are averaged for each prompt, and the spread of the prompts' means counts, as
weighted.py has it. A score of a whole set has no value for a prompt. What it would be without a prompt says how much
depends on that one (the jackknife; Efron and Stein 1981, "The jackknife estimate of variance", Ann. Stat. 9). With
    t     the score of all prompts
    t_g   the score without prompt g
    a_g   the prompt's share of the images
a prompt's residual is e_g = (t - t_g) (1 - a_g) / a_g, less the mean of all weighted by a. For a score that is a mean
of its images, it is the difference of the prompt's mean from the whole, so both kinds of scores are added. A distance
of fewer images is larger: that is the same for each prompt that is left out, and the mean takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from optimizer.trial.by_prompt import Numbers, basis_of, basis_of_lines, by_cluster, cluster_numbers
from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import Term
from optimizer.trial.weighted import (
    Spread,
    Values,
    grouped,
    plain_values,
    spread,
    spread_of_residuals,
    spread_of_sum,
    weighted_mean,
)
from scorers.errors import SuiteImagesError
from studies.records.values import Basis

CONFIDENCE: Final = 0.95
FEWEST_LEFT: Final = 2  # images of a set score without a cluster: distances need two


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardError:
    """A standard error with the degrees of freedom of its t interval."""

    value: float
    freedom: float

    def interval(self, value: float, confidence: float) -> tuple[float, float]:
        """Return Student's t interval around a value."""
        half_width = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.value
        return value - half_width, value + half_width


def error_of(
    sides: Sequence[tuple[Evidence, float]], terms: Sequence[Term], basis: Basis | None = None
) -> StandardError | None:
    """Return the standard error of a signed sum of scores over several evidences of the same items.

    Args:
        basis: what it is over; None: prompts where that is possible.

    Returns:
        None if a score looks at one cluster only, or if a set score cannot be computed of some of its images.
    """
    evidence = sides[0][0]
    clusters = cluster_numbers(basis or basis_of(evidence, terms), evidence.scores.prompts, evidence.items)
    lines, of_sets = [], []
    for term in terms:
        for side, sign in sides:
            if term.scorer in side.scores.by_item:
                lines.append(sign * term.factor * side.scores.by_item[term.scorer])
            else:
                of_sets.append(_spread_of_set(side, term.scorer, sign * term.factor, clusters))
    return _error(grouped(lines), evidence.scores.weights, clusters, of_sets)


def mean_interval(
    lines: Sequence[Values],
    weights: Values | None = None,
    prompts: Numbers | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[float, float | None, float | None]:
    """Return the sum of the lines' weighted means with its interval, which is None for a single image.

    Args:
        lines: [items] each, of which none leaves out all; see `grouped`.
        weights: [items]; None: all count alike.
        prompts: [items], equal for items of one prompt; None: each has its own.
    """
    means = [weighted_mean(line, weights) for line in lines]
    value = sum(mean for mean in means if mean is not None)
    basis = "prompts" if prompts is None else basis_of_lines([~np.isnan(line) for line in lines], prompts)
    error = _error(lines, weights, cluster_numbers(basis, prompts, lines[0].size), ())
    return (value, None, None) if error is None else (value, *error.interval(value, confidence))


def _error(
    lines: Sequence[Values], weights: Values | None, clusters: Numbers, of_sets: Sequence[Spread | None]
) -> StandardError | None:
    means = [by_cluster(line, weights, clusters) for line in lines]
    plain = plain_values(*means[0]) if len(means) == 1 and not of_sets else None
    if plain is not None:
        if plain.size < 2:
            return None
        return StandardError(value=float(plain.std(ddof=1) / np.sqrt(plain.size)), freedom=plain.size - 1)
    found = spread_of_sum([*(spread(*mean) for mean in means), *of_sets])
    return None if found is None else StandardError(value=found.error, freedom=found.freedom)


def _spread_of_set(side: Evidence, scorer: str, factor: float, clusters: Numbers) -> Spread | None:
    """Return the spread of a set score times a factor; None if it cannot be computed without each of the clusters."""
    if scorer not in side.scores.by_set or scorer not in side.resampled:
        return None
    own = clusters[side.members(scorer)]
    counts = np.bincount(own, minlength=int(clusters.max()) + 1)
    share, seen = counts / own.size, counts > 0
    if seen.sum() < 2 or own.size - counts.max() < FEWEST_LEFT:
        return None
    try:
        change = side.scores.by_set[scorer] - side.leaving_out(scorer, clusters)
    except SuiteImagesError:  # it takes no fewer images than the suite has
        return None
    residuals = np.zeros(counts.size)
    residuals[seen] = change * (1 - share[seen]) / share[seen]
    return spread_of_residuals(factor * (residuals - np.sum(share * residuals)), share)
