"""Gains: how much better a trial is than the better parent, with a confidence interval.

Renders are paired: every trial renders each item with the same prompt and the same noise. So the interval is Student's
t interval of the mean difference over the suite's items. If a set score (a distance between distributions) takes part,
the standard error comes from a bootstrap over items. Items may have weights, and scorers may leave some out: see
weighted.py. A set score has no weights: each image that it looks at counts once.

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
from optimizer.trial.weighted import Spread, grouped, plain_values, spread, unseen_share, weighted_mean
from scorers.protocol import ScorerInfo
from studies.records.values import Gain, Mean

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
            resampled, members = self.resampled[scorer], self.scores.members.get(scorer)
            drawn = draws if members is None else _draws_of_members(draws, members)
            self._bootstrapped[scorer] = np.array([resampled(draw) for draw in drawn])
        return self._bootstrapped[scorer]

    def part(self, items: Sequence[int]) -> Evidence:
        """Return the evidence of some of the items, given by their indices here; set scores are computed anew."""
        if tuple(items) not in self._parts:
            self._parts[tuple(items)] = self._part(np.array(items, dtype=np.int64))
        return self._parts[tuple(items)]

    def _part(self, chosen: NDArray[np.int64]) -> Evidence:
        scores = self.scores
        looked_at = {name: np.flatnonzero(np.isin(chosen, members)) for name, members in scores.members.items()}
        return Evidence(
            items=len(chosen),
            scores=Scores(
                by_item={name: values[chosen] for name, values in scores.by_item.items()},
                by_set={name: self.resampled[name](chosen[looked_at.get(name, slice(None))]) for name in scores.by_set},
                weights=None if scores.weights is None else scores.weights[chosen],
                members=looked_at,
            ),
            resampled={name: _resampled_part(score, chosen) for name, score in self.resampled.items()},
        )

    def knows(self, terms: Sequence[Term]) -> bool:
        """Return whether every scorer of a sum looks at some of these items."""
        means = self.scores.means
        return all(term.scorer in means for term in terms)


def _resampled_part(score: Resampled, chosen: NDArray[np.int64]) -> Resampled:
    return lambda draw: score(chosen[draw])


def _draws_of_members(draws: NDArray[np.int64], members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Turn draws of all items into draws of a set scorer's own, as many as it has.

    What was drawn of its items stays, so that its score goes up and down with the other scores of the draw; the rest is
    drawn from its items alone.
    """
    generator = np.random.default_rng(1)
    found = []
    for draw in draws:
        own = draw[np.isin(draw, members)][: members.size]
        found.append(np.concatenate([own, generator.choice(members, members.size - own.size)]))
    return found


def gains(
    trial: Evidence, parents: Mapping[str, Evidence], objective: Objective, infos: Mapping[str, ScorerInfo]
) -> dict[str, Gain]:
    """Compute the trial's gain in every objective and every scorer, each against the parent that is better in it.

    A scorer that leaves out all of these items has none. One that compares with a parent is compared with the others,
    where there are any: no merge is closer to a parent than that one is.
    """
    found = {}
    for name, terms in terms_of(objective, infos).items():
        others = {letter: each for letter, each in parents.items() if not objective.is_compared(name, letter)}
        if trial.knows(terms):
            found[name] = _gain(trial, others or parents, terms)
    return found


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
    error = _error(((one, 1.0), (other, -1.0)), terms)
    return (None, None) if error is None else _interval(difference(one, other, terms), error, confidence)


def unseen(seen: Sequence[int], whole: Evidence, terms: tuple[Term, ...]) -> float:
    """Return the factor by which the variance of a difference shrinks, as some items of the whole suite are known.

    1 - n / N if all items count alike; the largest of the terms where they differ.
    """
    return max(_unseen(list(seen), whole, term.scorer) for term in terms)


def _unseen(seen: list[int], whole: Evidence, scorer: str) -> float:
    scores = whole.scores
    is_set = scorer not in scores.by_item
    values = np.zeros(whole.items) if is_set else scores.by_item[scorer]
    if scorer in scores.members:
        values = np.where(np.isin(np.arange(whole.items), scores.members[scorer]), 0.0, np.nan)
    known = np.full(whole.items, np.nan)
    known[seen] = values[seen]
    return unseen_share(known, values, None if is_set else scores.weights)


def score_mean(one: Evidence, scorer: str) -> Mean:
    """Return the mean of a scorer over its items, or the score of a set, with its interval."""
    value, error = one.scores.means[scorer], _error(((one, 1.0),), (Term(scorer, 1.0),))
    low, high = (None, None) if error is None else _interval(value, error, CONFIDENCE)
    return Mean(value=value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardError:
    """A standard error with the degrees of freedom of its t interval."""

    value: float
    freedom: float


def standard_error(one: Evidence, terms: tuple[Term, ...]) -> float | None:
    """Return the standard error of a sum of scores over its items.

    None for a single item, if a set score cannot be resampled, or if a scorer leaves out all items but one.
    """
    error = _error(((one, 1.0),), terms)
    return None if error is None else error.value


def _error(sides: Sequence[tuple[Evidence, float]], terms: tuple[Term, ...]) -> StandardError | None:
    """Return the standard error of a signed sum over several evidences of the same items; see `standard_error`."""
    evidence = sides[0][0]
    lines, sets = [], []
    for term in terms:
        for side, sign in sides:
            if term.scorer in side.scores.by_item:
                lines.append(sign * term.factor * side.scores.by_item[term.scorer])
            else:
                sets.append((term, side, sign))
    if any(not side.knows((term,)) or term.scorer not in side.resampled for term, side, _ in sets):
        return None
    if not sets:
        return _error_of_lines(grouped(lines), evidence.scores.weights)
    return _bootstrap_error(grouped(lines), evidence, sets)


def _error_of_lines(lines: Sequence[NDArray[np.float64]], weights: NDArray[np.float64] | None) -> StandardError | None:
    plain = plain_values(lines[0], weights) if len(lines) == 1 else None
    if plain is None:
        found = spread(lines, weights)
        return None if found is None else StandardError(value=found.error, freedom=found.freedom)
    if plain.size < 2:
        return None
    return StandardError(value=float(plain.std(ddof=1) / np.sqrt(plain.size)), freedom=plain.size - 1)


def mean_interval(
    lines: Sequence[NDArray[np.float64]], weights: NDArray[np.float64] | None = None, confidence: float = CONFIDENCE
) -> tuple[float, float | None, float | None]:
    """Return the sum of the lines' weighted means with its interval, which is None for a single item.

    Args:
        lines: [items] each, of which none leaves out all; see `grouped`.
    """
    means = [weighted_mean(line, weights) for line in lines]
    value = sum(mean for mean in means if mean is not None)
    error = _error_of_lines(lines, weights)
    return (value, None, None) if error is None else (value, *_interval(value, error, confidence))


def t_interval(differences: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Return Student's t interval of the mean of paired differences [items]; (None, None) for a single item."""
    _, low, high = mean_interval([differences], confidence=confidence)
    return low, high


def _interval(value: float, error: StandardError, confidence: float) -> tuple[float, float]:
    """Return Student's t interval of a value."""
    half_width = float(stats.t.ppf((1 + confidence) / 2, error.freedom)) * error.value
    return value - half_width, value + half_width


def _bootstrap_error(
    lines: Sequence[NDArray[np.float64]], evidence: Evidence, sets: Sequence[tuple[Term, Evidence, float]]
) -> StandardError | None:
    """Return the bootstrap standard error over items; the draws are the same for every trial of a suite.

    Only the spread over the draws is used, not their mean: a distance between distributions is biased upwards when
    items repeat. The factor sqrt(n / (n - 1)) corrects the bootstrap's bias, so that for image scores alone the error
    would converge to the one of Student's t; n is the number of items of the scorer that looks at the fewest.
    """
    count = evidence.items
    by_item, freedom = _for_bootstrap(lines, evidence)
    fewest = min([count, *(members.size for members in _members_of(sets))])
    if by_item is None or fewest < 2:
        return None
    draws = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))
    totals = by_item[draws].mean(axis=1)
    for term, side, sign in sets:
        totals += sign * term.factor * side.bootstrap(term.scorer, draws)
    value = float(totals.std(ddof=1) * np.sqrt(fewest / (fewest - 1)))
    return StandardError(value=value, freedom=min(freedom, fewest - 1))


def _members_of(sets: Sequence[tuple[Term, Evidence, float]]) -> list[NDArray[np.int64]]:
    return [side.scores.members[term.scorer] for term, side, _ in sets if term.scorer in side.scores.members]


def _for_bootstrap(
    lines: Sequence[NDArray[np.float64]], evidence: Evidence
) -> tuple[NDArray[np.float64] | None, float]:
    """Return values [items] whose mean over a draw varies as the sum of the lines' means does; and its freedom.

    The values are None where there is no standard error.
    """
    count, weights = evidence.items, evidence.scores.weights
    if not lines:
        return np.zeros(count), count - 1
    plain = plain_values(lines[0], weights) if len(lines) == 1 else None
    if plain is not None and plain.size == count:
        return plain, count - 1
    found: Spread | None = spread(lines, weights)
    if found is None:
        return None, 0
    return found.contributions * np.sqrt(count * (count - 1)), found.freedom
