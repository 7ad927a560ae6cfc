"""How much better than the better parent, and how sure that is.

Renders are paired: the same prompt and the same noise in every trial. So the interval is over the suite's items,
of the differences item by item: Student's t, with the standard error from a bootstrap over items where a set score
(a distance between distributions) takes part.

Items are taken as independent. With several seeds for each prompt that holds for new seeds of these prompts, where the
interval is wider than it need be; other prompts may differ by more, as seeds of one prompt have its effect in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from optimizer.trial.objective import SINGLE, Objective, ScoreSheet, Term
from scorers.protocol import ScorerInfo
from studies.records.values import Gain

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
    return {name: _gain(trial, parents, terms) for name, terms in _all_terms(objective, infos).items()}


def standard_errors(trial: Evidence, objective: Objective, infos: Mapping[str, ScorerInfo]) -> dict[str, float]:
    """Of every objective and every scorer by itself, over the suite's items; none where it cannot be had.

    Other items would give another score, this far away. It is far more than what tells two merges apart,
    because prompts differ from each other; that is what the intervals of gains are for, which are paired.
    """
    found = {name: standard_error(trial, terms) for name, terms in _all_terms(objective, infos).items()}
    return {name: error for name, error in found.items() if error is not None}


def _all_terms(objective: Objective, infos: Mapping[str, ScorerInfo]) -> dict[str, tuple[Term, ...]]:
    """Objective and scorers as sums in which more is better."""
    wanted = {SINGLE: objective.terms} if objective.terms else {}
    return wanted | {name: (Term(name, 1.0 if info.direction == "maximize" else -1.0),) for name, info in infos.items()}


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
    sides = ((one, 1.0), (other, -1.0))
    error = _error(sides, terms)
    return (None, None) if error is None else _around(difference(one, other, terms), error, one.items, confidence)


def standard_error(one: Evidence, terms: tuple[Term, ...]) -> float | None:
    """Of a sum of scores over the items they were taken from; None where it cannot be had."""
    return _error(((one, 1.0),), terms)


def _error(sides: Sequence[tuple[Evidence, float]], terms: tuple[Term, ...]) -> float | None:
    """Standard error of a sum of evidence of the same items, each with its sign.

    None for a single item, and where a set score cannot be drawn again.
    """
    count = sides[0][0].items
    by_item = np.zeros(count)
    sets = []
    for term in terms:
        for evidence, sign in sides:
            if term.scorer in evidence.sheet.by_item:
                by_item = by_item + sign * term.factor * evidence.sheet.by_item[term.scorer]
            else:
                sets.append((term, evidence, sign))
    if count < 2 or any(term.scorer not in evidence.resampled for term, evidence, _ in sets):
        return None
    if not sets:
        return float(by_item.std(ddof=1) / np.sqrt(count))
    return _bootstrap_error(by_item, sets)


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


def _bootstrap_error(by_item: NDArray[np.float64], sets: Sequence[tuple[Term, Evidence, float]]) -> float:
    """Standard error over draws of items with repeats; the draws are the same for every trial of a suite.

    Only the spread of the draws is used: a distance between distributions is itself larger when items repeat. The
    factor under the root makes it the unbiased error, which for image scores is exactly Student's.
    """
    count = by_item.size
    draws = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))
    totals = by_item[draws].mean(axis=1)
    for term, evidence, sign in sets:
        totals += sign * term.factor * evidence.bootstrap(term.scorer, draws)
    return float(totals.std(ddof=1) * np.sqrt(count / (count - 1)))
