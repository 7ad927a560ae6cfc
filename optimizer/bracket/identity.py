"""What the results of a bracket depend on: with anything else, they are those of another bracket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from basics.digests import json_digest
from optimizer.bracket.setup import BracketPlan
from studies.spec.fingerprints import scorer_fingerprints
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings

People = Literal["eye", "vote"]  # the judges who are people: at a sheet, or on the page of votes


@dataclass(frozen=True, kw_only=True)
class BracketIdentity:
    """What a bracket depends on."""

    checkpoints: tuple[str, ...]  # sha256 by number
    rounds: tuple[str, ...]  # a digest of what shapes the pictures of each
    counting: tuple[str, ...]  # a digest of what else of each round decides its matches
    judge: str


def bracket_identity(plan: BracketPlan, rounds: tuple[str, ...], people: People | None) -> BracketIdentity:
    """Return what a bracket depends on.

    Args:
        rounds: see `BracketIdentity`.
        people: who judges; None: the scorers.
    """
    spec = plan.bracket.spec
    return BracketIdentity(
        checkpoints=tuple(contestant.sha256 for contestant in plan.contestants),
        rounds=rounds,
        counting=tuple(counting(suite, spec.render.degenerate_limit, scored=people is None) for suite in plan.suites),
        judge=people or scorers_judge(spec),
    )


def counting(suite: SuiteSettings, degenerate_limit: int, *, scored: bool) -> str:
    """Return a digest of who scores the images of a round, how they count, and how many of them may be degenerate."""
    return json_digest([degenerate_limit, suite.scoring_digest if scored else None])


def scorers_judge(spec: StudySpec) -> str:
    """Return a digest of the scorers, their files and the objective."""
    entries = {name: entry.model_dump(mode="json") for name, entry in spec.scorers.items()}
    terms = {name: term.model_dump(mode="json") for name, term in spec.terms.items()}
    return "scorers " + json_digest([entries, scorer_fingerprints(spec), terms])
