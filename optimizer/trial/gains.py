"""Gains: how much better a trial is than the better parent, with a confidence interval.

Renders are paired: every trial renders each item with the same prompt and the same noise. So the interval is Student's
t interval of the mean difference over the suite's items. If a set score (a distance between distributions) takes part,
the standard error comes from a bootstrap over items.

Items are treated as independent. With several seeds per prompt, the interval is conservative for new seeds of the same
prompts. For new prompts it may be too narrow, because seeds of one prompt share that prompt's effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from scorers.protocol import ScorerInfo
from studies.records.values import Gain

CONFIDENCE = 0.95
RESAMPLES = 200  # of the bootstrap
Resampled = Callable[[NDArray[np.int64]], float]  # indices of items, drawn with replacement -> their set score


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The scores of a trial, and what a bootstrap of its set scores needs."""

    items: int  # number of scored images
    scores: Scores
    resampled: Mapping[str, Resampled] = field(default_factory=dict)  # set scorer -> score of resampled items
    _bootstrapped: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # cache of `bootstrap`
    _parts: dict[tuple[int, ...], Evidence] = field(default_factory=dict)  # cache of `part`

    def bootstrap(self, scorer: str, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the set score of each draw of items: [draws, items] -> [draws]. It is computed once per trial."""
        if scorer not in self._bootstrapped:
            self._bootstrapped[scorer] = np.array([self.resampled[scorer](draw) for draw in draws])
        return self._bootstrapped[scorer]

    def part(self, items: Sequence[int]) -> Evidence:
        """Return the evidence of some of the items, given by their indices here; set scores are computed anew."""
        if tuple(items) not in self._parts:
            self._parts[tuple(items)] = self._part(np.array(items, dtype=np.int64))
        return self._parts[tuple(items)]

    def _part(self, chosen: NDArray[np.int64]) -> Evidence:
        return Evidence(
            items=len(chosen),
            scores=Scores(
                by_item={name: values[chosen] for name, values in self.scores.by_item.items()},
                by_set={name: self.resampled[name](chosen) for name in self.scores.by_set},
            ),
            resampled={name: _resampled_part(score, chosen) for name, score in self.resampled.items()},
        )


def _resampled_part(score: Resampled, chosen: NDArray[np.int64]) -> Resampled:
    return lambda draw: score(chosen[draw])


def gains(
    trial: Evidence, parents: Mapping[str, Evidence], objective: Objective, infos: Mapping[str, ScorerInfo]
) -> dict[str, Gain]:
    """Compute the trial's gain in every objective and every scorer, each against the parent that is better in it."""
    return {name: _gain(trial, parents, terms) for name, terms in terms_of(objective, infos).items()}


def standard_errors(trial: Evidence, objective: Objective, infos: Mapping[str, ScorerInfo]) -> dict[str, float]:
    """Compute the standard error of every objective and every scorer over items; those that have none are left out.

    It says how much the score would vary with other items. It is much larger than the difference between two merges,
    because prompts differ from each other. Use the paired intervals of gains to compare merges.
    """
    errors = {name: standard_error(trial, terms) for name, terms in terms_of(objective, infos).items()}
    return {name: error for name, error in errors.items() if error is not None}


def terms_of(objective: Objective, infos: Mapping[str, ScorerInfo]) -> dict[str, tuple[Term, ...]]:
    """Express the objective and every scorer as a sum of terms in which more is better."""
    terms = {SINGLE: objective.terms} if objective.terms else {}
    return terms | {name: (Term(name, 1.0 if info.direction == "maximize" else -1.0),) for name, info in infos.items()}


def _gain(trial: Evidence, parents: Mapping[str, Evidence], terms: tuple[Term, ...]) -> Gain:
    letter = max(parents, key=lambda name: (_total(parents[name].scores, terms), -ord(name)))
    value = difference(trial, parents[letter], terms)
    low, high = difference_interval(trial, parents[letter], terms)
    return Gain(value=value, low=low, high=high, parent=letter)


def _total(scores: Scores, terms: tuple[Term, ...]) -> float:
    means = scores.means
    return sum(term.factor * means[term.scorer] for term in terms)


def difference(one: Evidence, other: Evidence, terms: tuple[Term, ...]) -> float:
    """Return the score of one minus that of the other; both are of the same items."""
    return _total(one.scores, terms) - _total(other.scores, terms)


def difference_interval(
    one: Evidence, other: Evidence, terms: tuple[Term, ...], confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """Return the interval of `difference` over the items; (None, None) if there is no standard error."""
    sides = ((one, 1.0), (other, -1.0))
    error = _error(sides, terms)
    return (None, None) if error is None else _interval(difference(one, other, terms), error, one.items, confidence)


def standard_error(one: Evidence, terms: tuple[Term, ...]) -> float | None:
    """Return the standard error of a sum of scores over its items.

    None for a single item, or if a set score cannot be resampled.
    """
    return _error(((one, 1.0),), terms)


def _error(sides: Sequence[tuple[Evidence, float]], terms: tuple[Term, ...]) -> float | None:
    """Return the standard error of a signed sum over several evidences of the same items; see `standard_error`."""
    count = sides[0][0].items
    by_item = np.zeros(count)
    sets = []
    for term in terms:
        for evidence, sign in sides:
            if term.scorer in evidence.scores.by_item:
                by_item = by_item + sign * term.factor * evidence.scores.by_item[term.scorer]
            else:
                sets.append((term, evidence, sign))
    if count < 2 or any(term.scorer not in evidence.resampled for term, evidence, _ in sets):
        return None
    if not sets:
        return float(by_item.std(ddof=1) / np.sqrt(count))
    return _bootstrap_error(by_item, sets)


def t_interval(differences: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Return Student's t interval of the mean of paired differences [items]; (None, None) for a single item."""
    count = differences.size
    if count < 2:
        return None, None
    return _interval(float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(count)), count, confidence)


def _interval(value: float, error: float, count: int, confidence: float) -> tuple[float, float]:
    """Return Student's t interval of a value with its standard error over `count` items."""
    half_width = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return value - half_width, value + half_width


def _bootstrap_error(by_item: NDArray[np.float64], sets: Sequence[tuple[Term, Evidence, float]]) -> float:
    """Return the bootstrap standard error over items; the draws are the same for every trial of a suite.

    Only the spread over the draws is used, not their mean: a distance between distributions is biased upwards when
    items repeat. The factor sqrt(n / (n - 1)) corrects the bootstrap's bias, so that for image scores alone the error
    would converge to the one of Student's t.
    """
    count = by_item.size
    draws = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))
    totals = by_item[draws].mean(axis=1)
    for term, evidence, sign in sets:
        totals += sign * term.factor * evidence.bootstrap(term.scorer, draws)
    return float(totals.std(ddof=1) * np.sqrt(count / (count - 1)))
