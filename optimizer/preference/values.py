"""The objective `preference` of a study: computed anew for every complete trial from all votes so far.

Votes come at any time, so what a trial is worth is not fixed when it is scored. It is the mean of the utilities'
posterior: see model.py. Whoever stores a vote, ends a trial or proposes one computes it anew, and stores it, with all
that follows from it. So whoever reads results finds what the votes say, and needs no model for it.

The interval of a gain in votes alone is that of the posterior. Where an objective adds other scores, both variances are
added: prompts and people err independently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.preference.model import Preference, fit
from optimizer.preference.points import points_of
from optimizer.trial.by_prompt import basis_of
from optimizer.trial.constraints import feasible_or_all
from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import SINGLE, Objective, Term
from optimizer.trial.ranking import parent_trials
from optimizer.trial.standard_errors import CONFIDENCE, StandardError, error_of
from optimizer.trial.stored_scores import trial_scores
from studies.records.optuna_studies import optuna_study_id
from studies.records.preferences import JudgedTrial, store_judged
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial
from studies.records.votes import load_votes


def refresh_preference(records: StudyRecords) -> None:
    """Compute the preference of every complete trial from the votes, and store it; nothing for other studies."""
    name = records.study.spec.voted
    if name is None:
        return
    optuna_id = optuna_study_id(records)
    while True:
        votes = load_votes(records)
        trials = [trial for trial in load_trials(records) if trial.is_whole]
        if not trials:
            return
        numbers = [trial.number for trial in trials]
        preference = fit(votes, numbers, points_of(records, trials))
        if store_judged(records, optuna_id, name, votes, _Judge.of(records, name, trials, preference).judged()):
            return


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """The trials of a study, with what the votes say of them."""

    name: str  # of the preference among the scorers
    objective: Objective
    trials: Sequence[StoredTrial]
    preference: Preference
    evidence: Mapping[int, Evidence]  # number -> its scores, with the preference of now

    @classmethod
    def of(cls, records: StudyRecords, name: str, trials: Sequence[StoredTrial], preference: Preference) -> _Judge:
        values = dict(zip(preference.numbers, map(float, preference.mean), strict=True))
        evidence = {}
        for trial in trials:
            scores = trial_scores(records, trial)
            scores = replace(scores, by_set=dict(scores.by_set) | {name: values[trial.number]})
            evidence[trial.number] = Evidence(items=len(records.study.spec.suite.items()), scores=scores)
        objective = Objective.of_study(records.study)
        return cls(name=name, objective=objective, trials=trials, preference=preference, evidence=evidence)

    def judged(self) -> list[JudgedTrial]:
        """Return every trial as the votes have it."""
        return [self._judged(trial) for trial in self.trials]

    def _judged(self, trial: StoredTrial) -> JudgedTrial:
        means = self.evidence[trial.number].scores.means
        gains, errors = dict(trial.gains), dict(trial.errors)
        for name, terms in self._sums().items():
            if trial.gains and parent_trials(self.trials):  # else the parents have not ended, or were deleted
                gains[name] = self._gain(trial, terms)
            error = self._error(((trial.number, 1.0),), terms)
            errors.pop(name, None)
            if error is not None:
                errors[name] = error.value
        return JudgedTrial(
            id=trial.id,
            number=trial.number,
            preference=means[self.name],
            objectives=self.objective.values(means),
            gains=gains,
            errors=errors,
        )

    def _sums(self) -> dict[str, tuple[Term, ...]]:
        """Return what depends on votes: the preference, and the objective if it has a part in it."""
        found: dict[str, tuple[Term, ...]] = {self.name: (Term(self.name, 1.0),)}
        if any(term.scorer == self.name for term in self.objective.terms):
            found[SINGLE] = self.objective.terms
        return found

    def _gain(self, trial: StoredTrial, terms: tuple[Term, ...]) -> Gain:
        """Compare a trial with the better parent, among those that keep the constraints."""
        parents = parent_trials(self.trials)
        means = {letter: parent.constrained for letter, parent in parents.items()}
        totals = {
            letter: self._total(parents[letter].number, terms)
            for letter in feasible_or_all(means, self.objective.constraints)
        }
        better = max(totals, key=lambda letter: (totals[letter], -ord(letter)))
        value = self._total(trial.number, terms) - totals[better]
        error = self._error(((trial.number, 1.0), (parents[better].number, -1.0)), terms)
        low, high = (None, None) if error is None else error.interval(value, CONFIDENCE)
        others = self._others(terms)
        basis = basis_of(self.evidence[trial.number], others) if others else "votes"
        return Gain(value=value, low=low, high=high, parent=better, basis=basis)

    def _total(self, number: int, terms: Sequence[Term]) -> float:
        means = self.evidence[number].scores.means
        return sum(term.factor * means[term.scorer] for term in terms)

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
