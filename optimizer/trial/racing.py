"""Racing: stop rendering a trial that surely falls behind the best so far.

The suite is rendered in stages, a fixed partition in shuffled order. After each stage but the last the trial is
compared with the incumbent, image by image on what both have, and stopped when the upper end of the one-sided interval
of its difference is below zero:

    d + t(1 - e / looks; n - 1) * s / sqrt(n) * sqrt(1 - n / N) < 0

d is the mean difference over the n of N items rendered so far, s / sqrt(n) its standard error (Student's, or the
bootstrap's where a set score takes part). The last factor is that of a finite population: the question is whether the
trial would be the best over this very suite, of which n items are known already. Every look is one more chance to be
wrong, so each takes an equal share of the error e = 1 - confidence (Bonferroni). So a trial that is as good as the
incumbent renders the full suite with the confidence asked for. Where its differences have a long upper tail (it is much
better on a few prompts only), it does so somewhat less often, as with any t-test.

The search learns a stopped trial's objective as the incumbent's plus the mean difference between the two. Its plain
mean over fewer prompts would be no measure of it, because prompts differ far more from each other than two merges do on
the same prompt. It is not reported as pruned, because samplers learn nothing from pruned trials, and it is never the
best.

The idea of paired comparisons over a fixed order of instances: Birattari et al. 2002, "A Racing Algorithm for
Configuring Metaheuristics"; here there is one opponent, and intervals instead of a rank test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.trial.gains import Evidence, difference, difference_interval
from optimizer.trial.objective import SINGLE, Term
from studies.records.values import StoredTrial
from studies.spec.search import RacingSettings

ESTIMATE_KEY = "mergetune:estimate"
"""User attribute of a stopped trial in Optuna: how many images it has, and which trial it was compared with."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """A trial against the incumbent."""

    incumbent: int  # number of the best trial that was rendered to its end
    objective: float  # the incumbent's, of the whole suite
    evidence: Evidence  # the incumbent's, of the whole suite
    terms: tuple[Term, ...]  # of the objective
    confidence: float  # with which a trial as good as the incumbent passes all looks
    looks: int  # at the trial before its last stage

    @classmethod
    def against(
        cls, row: StoredTrial, evidence: Evidence, terms: tuple[Term, ...], settings: RacingSettings, stages: int
    ) -> Race:
        """A race against a stored trial in a suite of so many stages."""
        return cls(
            incumbent=row.number,
            objective=row.objectives[SINGLE],
            evidence=evidence,
            terms=terms,
            confidence=settings.confidence,
            looks=stages - 1,
        )

    def goes_on(self, items: Sequence[int], trial: Evidence) -> bool:
        """Whether the trial may still be as good as the incumbent, from its evidence of these items."""
        incumbent = self.evidence.part(items)
        error = (1 - self.confidence) / self.looks  # of one side and one look
        _, high = difference_interval(trial, incumbent, self.terms, 1 - 2 * error)
        if high is None:
            return True
        value = difference(trial, incumbent, self.terms)
        unseen = 1 - trial.items / self.evidence.items
        return value + (high - value) * math.sqrt(unseen) >= 0

    def estimate(self, items: Sequence[int], trial: Evidence) -> float:
        """What the trial's objective would be over the whole suite, as far as these items tell."""
        return self.objective + difference(trial, self.evidence.part(items), self.terms)
