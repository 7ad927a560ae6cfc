"""What people gave the renders of each trial: the mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.trial.standard_errors import CONFIDENCE, StandardError
from studies.records.ratings import BEST_RATING, WORST_RATING, Rating


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRating:
    """The mean of a trial's ratings."""

    value: float
    count: int
    interval: tuple[float, float] | None  # 95 %, Student's, within the scale; None where ratings do not differ


def mean_ratings(ratings: Sequence[Rating]) -> dict[int, MeanRating]:
    """Return number of a trial -> the mean of its ratings, the best first."""
    given: dict[int, list[int]] = {}
    for rating in ratings:
        if rating.rating is not None:
            given.setdefault(rating.number, []).append(rating.rating)
    means = {number: _mean(values) for number, values in given.items()}
    return dict(sorted(means.items(), key=lambda entry: -entry[1].value))


def _mean(values: Sequence[int]) -> MeanRating:
    value, count = float(np.mean(values)), len(values)
    if len(set(values)) == 1:  # an interval without width would claim that the next one is known
        return MeanRating(value=value, count=count, interval=None)
    error = StandardError(value=float(np.std(values, ddof=1)) / math.sqrt(count), freedom=count - 1)
    low, high = error.interval(value, CONFIDENCE)
    return MeanRating(value=value, count=count, interval=(max(low, WORST_RATING), min(high, BEST_RATING)))
