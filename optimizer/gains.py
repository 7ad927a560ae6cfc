"""How much better than the better parent, and how sure that is.

Renders are paired: the same prompt and the same noise in every trial. So the interval is over the suite's items,
of the differences item by item: Student's t, with the standard error from a bootstrap over items where a set score
(a distance between distributions) takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from optimizer.objective import SINGLE, Objective, ScoreSheet, Term
from scorers.protocol import ScorerInfo
from studies.results import Gain

CONFIDENCE = 0.95
RESAMPLES = 200
Resampled = Callable[[NDArray[np.int64]], float]  # item indices, with repeats -> the set score of those items


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A trial's scores with what a bootstrap of its set scores needs."""

    items: int  # renders that were scored
    sheet: ScoreSheet
    resampled: Mapping[str, Resampled] = field(default_factory=dict)
    _drawn: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _parts: dict[tuple[int, ...], Evidence] = field(default_factory=dict)

    def bootstrap(self, scorer: str, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """The set score of each draw of items [draws, items]; computed once per trial."""
        if scorer not in self._drawn:
            self._drawn[scorer] = np.array([self.resampled[scorer](draw) for draw in draws])
        return self._drawn[scorer]

    def part(self, items: Sequence[int]) -> Evidence:
        """What only some of the items say, given by their places here; set scores are those of these items."""
        if tuple(items) not in self._parts:
            self._parts[tuple(items)] = self._part(np.array(items, dtype=np.int64))
        return self._parts[tuple(items)]

    def _part(self, chosen: NDArray[np.int64]) -> Evidence:
        return Evidence(
            items=len(chosen),
            sheet=ScoreSheet(
                by_item={name: values[chosen] for name, values in self.sheet.by_item.items()},
                by_set={name: self.resampled[name](chosen) for name in self.sheet.by_set},
            ),
            resampled={name: _of_part(score, chosen) for name, score in self.resampled.items()},
        )


def _of_part(score: Resampled, chosen: NDArray[np.int64]) -> Resampled:
    return lambda draw: score(chosen[draw])


def gains(
    trial: Evidence, parents: Mapping[str, Evidence], objective: Objective, infos: Mapping[str, ScorerInfo]
) -> dict[str, Gain]:
    """The trial's gain in every objective and every scorer, each against the parent that is better in it."""
    wanted = {SINGLE: objective.terms} if objective.terms else {}
    wanted |= {name: (Term(name, 1.0 if info.direction == "maximize" else -1.0),) for name, info in infos.items()}
    return {name: _gain(trial, parents, terms) for name, terms in wanted.items()}


def _gain(trial: Evidence, parents: Mapping[str, Evidence], terms: tuple[Term, ...]) -> Gain:
    letter = max(parents, key=lambda name: (_total(parents[name].sheet, terms), -ord(name)))
    value = difference(trial, parents[letter], terms)
    low, high = difference_interval(trial, parents[letter], terms)
    return Gain(value=value, low=low, high=high, parent=letter)


def _total(sheet: ScoreSheet, terms: tuple[Term, ...]) -> float:
    means = sheet.means
    return sum(term.factor * means[term.scorer] for term in terms)


def difference(one: Evidence, other: Evidence, terms: tuple[Term, ...]) -> float:
    """One minus the other; both of the same items."""
    return _total(one.sheet, terms) - _total(other.sheet, terms)


def difference_interval(
    one: Evidence, other: Evidence, terms: tuple[Term, ...], confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """The interval of one minus the other over the items of both; None, None where it cannot be had."""
    by_item = [
        term.factor * (one.sheet.by_item[term.scorer] - other.sheet.by_item[term.scorer])
        for term in terms
        if term.scorer in one.sheet.by_item
    ]
    sets = [term for term in terms if term.scorer in one.sheet.by_set]
    if not sets:
        return t_interval(np.sum(by_item, axis=0), confidence)
    if any(term.scorer not in evidence.resampled for term in sets for evidence in (one, other)):
        return None, None
    if one.items < 2:
        return None, None
    error = _bootstrap_error(one, other, np.sum([np.zeros(one.items), *by_item], axis=0), sets)
    return _around(difference(one, other, terms), error, one.items, confidence)


def t_interval(differences: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Student's interval of the mean of paired differences [items]; None, None for a single item."""
    count = differences.size
    if count < 2:
        return None, None
    return _around(float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(count)), count, confidence)


def _around(value: float, error: float, count: int, confidence: float) -> tuple[float, float]:
    """Student's interval of a value with its standard error over `count` items."""
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return value - reach, value + reach


def _bootstrap_error(one: Evidence, other: Evidence, by_item: NDArray[np.float64], sets: list[Term]) -> float:
    """Standard error over draws of items with repeats; the draws are the same for every trial of a suite.

    Only the spread of the draws is used: a distance between distributions is itself larger when items repeat. The
    factor under the root makes it the unbiased error, which for image scores is exactly Student's.
    """
    count = by_item.size
    draws = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))
    totals = by_item[draws].mean(axis=1)
    for term in sets:
        totals += term.factor * (one.bootstrap(term.scorer, draws) - other.bootstrap(term.scorer, draws))
    return float(totals.std(ddof=1) * np.sqrt(count / (count - 1)))
