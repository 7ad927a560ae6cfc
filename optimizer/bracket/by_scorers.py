"""Scorers as the judge of a bracket: the spec's objective, compared image by image as gains are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from basics.digests import json_digest
from basics.messages import first_line
from optimizer.bracket.judging import Ahead, Judgement, MatchSide, ShownMatch
from optimizer.errors import BracketError, UnscorableTrial
from optimizer.rendering.prediction import agreed_prediction
from optimizer.runtime.setup import build_scorers
from optimizer.trial.evaluation import scoring_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval
from optimizer.trial.objective import Objective
from scorers.protocol import Scorer
from studies.spec.fingerprints import scorer_fingerprints
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, kw_only=True)
class ScorerJudge:
    """The scorers of a spec, loaded."""

    scorers: Mapping[str, Scorer]
    objective: Objective

    @classmethod
    def load(cls, spec: StudySpec, device: torch.device, cache_dir: Path) -> ScorerJudge:
        """Load the scorers. Their networks are on the device only while they score: a checkpoint needs its memory.

        Raises:
            ScorerError: weights or references are missing or wrong.
            NoMemoryError: they do not fit into memory.
        """
        scorers = build_scorers(spec, device, cache_dir, in_turns=True)
        infos = {name: scorer.info for name, scorer in scorers.items()}
        return cls(scorers=scorers, objective=Objective.of(spec, infos))

    def judge(self, shown: ShownMatch) -> Judgement:
        """Compare two checkpoints in the objective; one that cannot be scored loses.

        Raises:
            UnscorableTrial: the memory is too small.
        """
        found, failed = dict[Ahead, Evidence](), list[str]()
        sides: tuple[tuple[Ahead, MatchSide], ...] = (("upper", shown.upper), ("lower", shown.lower))
        for place, side in sides:
            try:
                found[place] = self._evidence(side, shown.suite)
            except UnscorableTrial as error:
                if error.kind == "out_of_memory":  # which is no fault of the checkpoint
                    raise
                failed.append(f"{side.contestant.name}: {first_line(error)}")
        if failed:
            return Judgement(ahead=next(iter(found), None), reason="; ".join(failed))
        return self._compared(found["upper"], found["lower"])

    def _compared(self, upper: Evidence, lower: Evidence) -> Judgement:
        lead = difference(upper, lower, self.objective.terms)
        low, high = difference_interval(upper, lower, self.objective.terms)
        means = upper.scores.means, lower.scores.means
        return Judgement(
            ahead=None if lead == 0 else "upper" if lead > 0 else "lower",
            lead=lead,
            low=low,
            high=high,
            scores={name: (means[0].get(name), means[1].get(name)) for name in self.scorers},
        )

    def _evidence(self, side: MatchSide, suite: SuiteSettings) -> Evidence:
        """Score one side's pictures.

        Raises:
            UnscorableTrial: a scorer fails, or returns a value that is not finite.
        """
        prediction = agreed_prediction((side.contestant.checkpoint,), suite)
        scoring = scoring_of(self.scorers, suite, prediction)
        part = scoring.score(suite.items(), side.images)
        return scoring.evidence(scoring.scores(part), part.features)


def require_one_number(spec: StudySpec) -> None:
    """Refuse several objectives, of which none says who is ahead.

    Raises:
        BracketError: the spec has several.
    """
    if spec.objectives is not None:
        raise BracketError(
            "a bracket compares by one number, and the spec has several `objectives`: combine its scorers under "
            "`objective`, or judge with --by eye"
        )


def identity_of(spec: StudySpec) -> str:
    """Return a digest of the scorers, their files and the objective."""
    entries = {name: entry.model_dump(mode="json") for name, entry in spec.scorers.items()}
    terms = {name: term.model_dump(mode="json") for name, term in spec.terms.items()}
    return "scorers " + json_digest([entries, scorer_fingerprints(spec), terms])
