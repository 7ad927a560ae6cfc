"""Racing: stop rendering a trial that is very likely worse than the best one so far.

The suite is rendered in stages, a fixed partition in shuffled order. After each stage but the last, the trial is
compared with the incumbent, item by item on those rendered so far. It is stopped if the upper end of the one-sided
confidence interval of its difference is below zero:

    d + t(1 - e / looks; n - 1) * s / sqrt(n) * sqrt(1 - n / N) < 0

d is the mean difference over the n of N items rendered so far and s / sqrt(n) its standard error (by the jackknife if a
set score takes part). The last factor is the finite population correction: the question is whether the trial would be
the best over this suite, n items of which are known already; for items with weights see `unseen_share` in weighted.py.
So the interval is over images, unlike that of a gain: what is not rendered yet are images of this suite, and the known
ones are a random part of them, whichever prompts they share.
As long as a scorer of the objective looks at none of the items, the trial goes on. A trial may be stopped by mistake at
every look, so each look takes an equal share of the error e = 1 - confidence (Bonferroni). A trial that is as good as
the incumbent thus renders the full suite with at least the requested confidence. If its differences have a long upper
tail (it is much better on a few prompts only), the probability is somewhat lower, as with any t-test.

A trial that surely breaks a constraint is stopped as well: the mean of a scorer over the whole suite is estimated as
the incumbent's plus the mean difference, and the same interval of it must reach the bound. Each look's share of the
error is then divided among the objective and the bounds. Where the incumbent itself is not feasible, no trial is
stopped for being behind it.

The search is told the incumbent's objective plus the mean difference as a stopped trial's objective, and the means that
constraints are on likewise. The trial's plain mean would be misleading, because prompts differ far more from each other
than two merges do on the same prompt. The trial is not reported as pruned, because samplers learn nothing from pruned
trials. It can never be the best.

Paired comparisons over a fixed order of instances: Birattari et al. 2002, "A Racing Algorithm for Configuring
Metaheuristics". Here there is a single opponent, and intervals replace the rank test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.trial.constraints import UNCONSTRAINED, Constraints
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval, unseen
from optimizer.trial.objective import SINGLE, Objective, Term
from studies.records.values import StoredTrial
from studies.spec.search import RacingSettings

ESTIMATE_KEY = "mergetune:estimate"
"""User attribute of a stopped trial in Optuna: the number of its images, and the trial it was compared with."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """The comparison of a running trial with the incumbent."""

    incumbent: int  # number of the best trial that rendered the full suite
    objective: float  # the incumbent's, of the whole suite
    evidence: Evidence  # the incumbent's, of the whole suite
    terms: tuple[Term, ...]  # of the objective
    confidence: float  # probability that a trial as good as the incumbent passes all looks
    looks: int  # comparisons before the last stage
    constraints: Constraints = UNCONSTRAINED

    @classmethod
    def against(
        cls, incumbent: StoredTrial, evidence: Evidence, objective: Objective, settings: RacingSettings, stages: int
    ) -> Race:
        """Set up a race against a stored trial, in a suite of `stages` stages."""
        return cls(
            incumbent=incumbent.number,
            objective=incumbent.objectives[SINGLE],
            evidence=evidence,
            terms=objective.terms,
            confidence=settings.confidence,
            looks=stages - 1,
            constraints=objective.constraints,
        )

    def goes_on(self, items: Sequence[int], trial: Evidence) -> bool:
        """Return whether the trial may still be the best, by its evidence of these items.

        Against an incumbent that breaks the constraints it is if it may come nearer to them.
        """
        violation = self.constraints.violation(self.evidence.scores.means)
        if self._least_violation(items, trial) > violation:
            return False
        return violation > 0 or self._most(items, trial, self.terms) >= 0

    def estimate(self, items: Sequence[int], trial: Evidence) -> float:
        """Estimate the trial's objective over the whole suite from these items."""
        return self.objective + difference(trial, self.evidence.part(items), self.terms)

    def estimate_constrained(self, items: Sequence[int], trial: Evidence) -> dict[str, float]:
        """Estimate the means that constraints are on over the whole suite from these items.

        A scorer that looks at none of these items keeps the incumbent's mean.
        """
        means, part = self.evidence.scores.means, self.evidence.part(items)
        terms = {name: (Term(name, 1.0),) for name in self.constraints.scorers}
        return {
            name: means[name] + (difference(trial, part, term) if trial.knows(term) else 0.0)
            for name, term in terms.items()
        }

    def _least_violation(self, items: Sequence[int], trial: Evidence) -> float:
        """Return by how much the trial surely breaks the constraints over the whole suite; 0 if it may keep them."""
        least, means = 0.0, self.evidence.scores.means
        for bound in self.constraints.bounds:
            most = self._most(items, trial, (Term(bound.scorer, bound.sign),))
            least += max(0.0, bound.excess(means[bound.scorer] + bound.sign * most))
        return least

    def _most(self, items: Sequence[int], trial: Evidence, terms: tuple[Term, ...]) -> float:
        """Return the upper end of the trial's difference from the incumbent over the whole suite; infinite if unknown.

        Args:
            terms: of what is compared, in which more is better.
        """
        if not trial.knows(terms):  # a scorer looks at none of these items
            return math.inf
        incumbent = self.evidence.part(items)
        tests = self.looks * (1 + len(self.constraints.bounds))
        error = (1 - self.confidence) / tests  # one-sided, of one test
        _, high = difference_interval(trial, incumbent, terms, 1 - 2 * error, "images")
        if high is None:
            return math.inf
        value = difference(trial, incumbent, terms)
        return value + (high - value) * math.sqrt(unseen(items, self.evidence, terms))
