"""Scorers as the judge of a bracket: the spec's objective, compared image by image as gains are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from basics.messages import first_line
from optimizer.bracket.judging import Judgement, MatchSide, ShownMatch
from optimizer.errors import BracketError, UnscorableTrial
from optimizer.rendering.prediction import agreed_prediction
from optimizer.runtime.setup import build_scorers
from optimizer.trial.evaluation import scoring_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval
from optimizer.trial.objective import Objective
from scorers.protocol import Scorer
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
            BracketError: a scorer compares with the renders of another model, or asks people.
            ScorerError: weights or references are missing or wrong.
            NoMemoryError: they do not fit into memory.
        """
        if spec.references:
            raise BracketError(
                f"scorer {next(iter(spec.references))!r} compares with the renders of another model, and a bracket has "
                "those of its checkpoints alone: judge by other scorers"
            )
        if spec.voted is not None:
            raise BracketError(
                f"scorer {spec.voted!r} is what people vote, and a bracket by scorers asks nobody: judge by other "
                "scorers"
            )
        scorers = build_scorers(spec, device, cache_dir, in_turns=True)
        infos = {name: scorer.info for name, scorer in scorers.items()}
        return cls(scorers=scorers, objective=Objective.of(spec, infos))

    def judge(self, shown: ShownMatch) -> Judgement:
        """Compare two checkpoints in the objective.

        Raises:
            BracketError: a scorer fails, or returns a value that is not finite; that says nothing of a checkpoint.
            UnscorableTrial: the memory is too small.
        """
        return self._compared(self._evidence(shown.upper, shown.suite), self._evidence(shown.lower, shown.suite))

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
            BracketError, UnscorableTrial: as for `judge`.
        """
        prediction = agreed_prediction((side.contestant.checkpoint,), suite)
        scoring = scoring_of(self.scorers, suite, prediction)
        try:
            part = scoring.score(suite.items(), side.images)
            return scoring.evidence(scoring.scores(part), part.features)
        except UnscorableTrial as error:
            if error.kind != "scorer":
                raise
            raise BracketError(
                f"the pictures of {side.contestant.name} cannot be scored: {first_line(error)}; the match is left "
                "open: once the scorer works, the same command goes on from here"
            ) from error
