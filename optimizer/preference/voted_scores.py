"""Scores of trials of which one comes from votes: sums of them, and how far trials differ in them.

The interval of a difference in votes alone is that of the posterior. Where a sum adds other scores, both variances are
added: prompts and people err independently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.preference.model import Preference
from optimizer.trial.by_prompt import basis_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import Scores, Term
from optimizer.trial.standard_errors import CONFIDENCE, StandardError, error_of
from studies.records.values import Gain


@dataclass(frozen=True, kw_only=True)
class VotedScores:
    """The scores of some trials on one suite."""

    name: str  # of the preference among the scorers
    preference: Preference
    evidence: Mapping[int, Evidence]  # number -> its scores, with the preference of now

    @classmethod
    def of(cls, name: str, preference: Preference, scores: Mapping[int, Scores], items: int) -> VotedScores:
        """Put the preference of now in place of the one in stored scores.

        Args:
            scores: number of a trial -> its scores of the whole suite.
            items: of the suite.
        """
        values = dict(zip(preference.numbers, map(float, preference.mean), strict=True))
        evidence = {
            number: Evidence(items=items, scores=replace(each, by_set=dict(each.by_set) | {name: values[number]}))
            for number, each in scores.items()
        }
        return cls(name=name, preference=preference, evidence=evidence)

    def means(self, number: int) -> Mapping[str, float]:
        """Scorer -> a trial's mean, or its score of the whole set."""
        return self.evidence[number].scores.means

    def total(self, number: int, terms: Sequence[Term]) -> float:
        """Return a trial's sum of scores."""
        means = self.means(number)
        return sum(term.factor * means[term.scorer] for term in terms)

    def better(self, parents: Mapping[str, int], terms: Sequence[Term]) -> str:
        """Return the letter of the parent with the larger sum, of equals the first.

        Args:
            parents: letter -> number of its trial, at least one.
        """
        return max(parents, key=lambda letter: (self.total(parents[letter], terms), -ord(letter)))

    def gain(self, number: int, parents: Mapping[str, int], terms: tuple[Term, ...]) -> Gain:
        """Compare a trial's sum with that of the better parent."""
        letter = self.better(parents, terms)
        value = self.total(number, terms) - self.total(parents[letter], terms)
        error = self._error(((number, 1.0), (parents[letter], -1.0)), terms)
        low, high = (None, None) if error is None else error.interval(value, CONFIDENCE)
        others = self._others(terms)
        basis = basis_of(self.evidence[number], others) if others else "votes"
        return Gain(value=value, low=low, high=high, parent=letter, basis=basis)

    def error(self, number: int, terms: Sequence[Term]) -> float | None:
        """Return the standard error of a trial's sum; None where other scores have none."""
        error = self._error(((number, 1.0),), terms)
        return None if error is None else error.value

    def _others(self, terms: Sequence[Term]) -> list[Term]:
        return [term for term in terms if term.scorer != self.name]

    def _error(self, sides: Sequence[tuple[int, float]], terms: Sequence[Term]) -> StandardError | None:
        """Return the standard error of a signed sum of trials; None where other scores have none.

        A set score has none here: it would need the features of all images.
        """
        factor = sum(term.factor for term in terms if term.scorer == self.name)
        of_votes = factor * self._deviation(sides)
        others = self._others(terms)
        if not others:
            return StandardError(value=of_votes, freedom=math.inf)
        error = error_of([(self.evidence[number], sign) for number, sign in sides], others)
        return None if error is None else StandardError(value=math.hypot(error.value, of_votes), freedom=error.freedom)

    def _deviation(self, sides: Sequence[tuple[int, float]]) -> float:
        """Return the posterior's standard deviation of a signed sum of utilities."""
        places = [(self.preference.numbers.index(number), sign) for number, sign in sides]
        covariance = self.preference.covariance
        variance = sum(one * two * covariance[first, second] for first, one in places for second, two in places)
        return math.sqrt(max(float(variance), 0.0))
