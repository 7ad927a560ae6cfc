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

The search is told the incumbent's objective plus the mean difference as a stopped trial's objective. The trial's plain
mean would be misleading, because prompts differ far more from each other than two merges do on the same prompt. The
trial is not reported as pruned, because samplers learn nothing from pruned trials. It can never be the best.

Paired comparisons over a fixed order of instances: Birattari et al. 2002, "A Racing Algorithm for Configuring
Metaheuristics". Here there is a single opponent, and intervals replace the rank test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval, unseen
from optimizer.trial.objective import SINGLE, Term
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

    @classmethod
    def against(
        cls, incumbent: StoredTrial, evidence: Evidence, terms: tuple[Term, ...], settings: RacingSettings, stages: int
    ) -> Race:
        """Set up a race against a stored trial, in a suite of `stages` stages."""
        return cls(
            incumbent=incumbent.number,
            objective=incumbent.objectives[SINGLE],
            evidence=evidence,
            terms=terms,
            confidence=settings.confidence,
            looks=stages - 1,
        )

    def goes_on(self, items: Sequence[int], trial: Evidence) -> bool:
        """Return whether the trial may still be as good as the incumbent, by its evidence of these items."""
        incumbent = self.evidence.part(items)
        if not trial.knows(self.terms):  # a scorer looks at none of these items
            return True
        error = (1 - self.confidence) / self.looks  # one-sided, of one look
        _, high = difference_interval(trial, incumbent, self.terms, 1 - 2 * error, "images")
        if high is None:
            return True
        value = difference(trial, incumbent, self.terms)
        return value + (high - value) * math.sqrt(unseen(items, self.evidence, self.terms)) >= 0

    def estimate(self, items: Sequence[int], trial: Evidence) -> float:
        """Estimate the trial's objective over the whole suite from these items."""
        return self.objective + difference(trial, self.evidence.part(items), self.terms)
