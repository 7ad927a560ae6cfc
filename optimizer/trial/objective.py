"""The objective: what the search optimises, computed from scores. One number, or several.

One number: the sum of  weight * score / unit  over its scorers, with a minus sign if a lower score is better. The unit
of a scorer is the difference that counts as one step, so that an aesthetic point and a hundredth of a cosine can be
added. Scores are not normalised by those of other trials, so the same renders always give the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.trial.weighted import weighted_mean
from scorers.protocol import Direction, ScorerInfo
from studies.records.values import StoredStudy
from studies.spec.study import StudySpec

SINGLE = "objective"  # the name of a single-number objective


@dataclass(frozen=True, slots=True)
class Term:
    """One scorer's part of an objective: `factor` is signed, so that more is always better."""

    scorer: str
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The number, or numbers, that the search maximises or minimises."""

    names: tuple[str, ...]  # ("objective",), or the scorers of a multi-objective study
    directions: tuple[Direction, ...]
    terms: tuple[Term, ...]  # of the single number; empty if there are several objectives

    @classmethod
    def of(cls, spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> Objective:
        """Work out the objective of a spec, whose scorers `infos` describes."""
        if spec.objectives is not None:
            directions = tuple(infos[name].direction for name in spec.objectives)
            return cls(names=spec.objectives, directions=directions, terms=())
        terms = []
        for name, term in spec.terms.items():
            sign = 1.0 if infos[name].direction == "maximize" else -1.0
            terms.append(Term(name, sign * term.weight / (term.unit or infos[name].unit)))
        return cls(names=(SINGLE,), directions=("maximize",), terms=tuple(terms))

    @classmethod
    def of_study(cls, study: StoredStudy) -> Objective:
        """Work out the objective of a stored study."""
        return cls.of(study.spec, study.spec.infos)

    def values(self, means: Mapping[str, float]) -> dict[str, float]:
        """Compute the objective values, in order, from the mean of each scorer."""
        if self.terms:
            return {SINGLE: sum(term.factor * means[term.scorer] for term in self.terms)}
        return {name: means[name] for name in self.names}

    def formula(self) -> str:
        """Write the objective as a formula, for reports."""
        if not self.terms:
            pairs = zip(self.directions, self.names, strict=True)
            return ", ".join(f"{direction} {name}" for direction, name in pairs)
        return " ".join(f"{term.factor:+.4g} {term.scorer}" for term in self.terms).removeprefix("+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All scores of one trial."""

    by_item: Mapping[str, NDArray[np.float64]]  # image scorer -> [items]; NaN where it leaves an item out
    by_set: Mapping[str, float]  # set scorer -> the score of all its items together
    weights: NDArray[np.float64] | None = None  # [items], of the means; None: all count alike
    prompts: NDArray[np.int64] | None = None  # [items], equal for items of one prompt; None: each has its own
    members: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Set scorer -> positions of the items that it looks at; one that looks at all is not in here."""

    @property
    def means(self) -> dict[str, float]:
        """One number per scorer; one that leaves out all of these items has none."""
        means = {name: weighted_mean(values, self.weights) for name, values in self.by_item.items()}
        return {name: mean for name, mean in means.items() if mean is not None} | dict(self.by_set)
