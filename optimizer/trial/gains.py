"""Gains: how much better a trial is than the better parent, with a confidence interval.

Renders are paired: every trial renders each item with the same prompt and the same noise. So the interval is that of
the mean difference. It is over the suite's prompts, each with the mean of its images: see standard_errors.py. Items may
have weights, and scorers may leave some out: see weighted.py. A set score has no weights: each image that it looks at
counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.trial.by_prompt import basis_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.standard_errors import CONFIDENCE, error_of
from optimizer.trial.weighted import unseen_share
from scorers.protocol import ScorerInfo
from studies.records.values import Basis, Gain


def gains(
    trial: Evidence, parents: Mapping[str, Evidence], objective: Objective, infos: Mapping[str, ScorerInfo]
) -> dict[str, Gain]:
    """Compute the trial's gain in every objective and every scorer, each against the parent that is better in it.

    A scorer that leaves out all of these items has none.
    """
    return {
        name: _gain(trial, parents, terms) for name, terms in terms_of(objective, infos).items() if trial.knows(terms)
    }


def standard_errors(trial: Evidence, objective: Objective, infos: Mapping[str, ScorerInfo]) -> dict[str, float]:
    """Compute the standard error of every objective and every scorer; those that have none are left out.

    It says how much the score would vary with other prompts. It is much larger than the difference between two merges,
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
    return Gain(value=value, low=low, high=high, parent=letter, basis=basis_of(trial, terms))


def _total(scores: Scores, terms: tuple[Term, ...]) -> float:
    means = scores.means
    return sum(term.factor * means[term.scorer] for term in terms)


def difference(one: Evidence, other: Evidence, terms: tuple[Term, ...]) -> float:
    """Return the score of one minus that of the other; both are of the same items."""
    return _total(one.scores, terms) - _total(other.scores, terms)


def difference_interval(
    one: Evidence,
    other: Evidence,
    terms: tuple[Term, ...],
    confidence: float = CONFIDENCE,
    basis: Basis | None = None,
) -> tuple[float | None, float | None]:
    """Return the interval of `difference`; (None, None) if there is no standard error.

    Args:
        basis: what it is over; None: prompts where that is possible.
    """
    error = error_of(((one, 1.0), (other, -1.0)), terms, basis)
    return (None, None) if error is None else error.interval(difference(one, other, terms), confidence)


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


def standard_error(one: Evidence, terms: tuple[Term, ...]) -> float | None:
    """Return the standard error of a sum of scores; None where there is none, see `error_of`."""
    error = error_of(((one, 1.0),), terms)
    return None if error is None else error.value
