"""Who goes on: what a judge says of two checkpoints' pictures, and what counts where there is nothing to judge.

A judge sees the pictures of a match and says who is ahead. Scorers are one (by_scorers.py), people another
(by_eye.py in a terminal, by_vote.py on a page).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from optimizer.bracket.contestants import Contestant
from optimizer.bracket.tree import BracketMatch
from studies.spec.suite import SuiteSettings

Ahead = Literal["upper", "lower"]


@dataclass(frozen=True, kw_only=True)
class MatchSide:
    """One checkpoint of a match with its pictures."""

    contestant: Contestant
    images: tuple[Tensor, ...]  # uint8 [3, h, w], in the suite's order
    failure: str | None = None  # why it cannot win


@dataclass(frozen=True, kw_only=True)
class ShownMatch:
    """A match as a judge sees it."""

    match: BracketMatch
    suite: SuiteSettings  # of the round
    upper: MatchSide
    lower: MatchSide


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge says of a match."""

    ahead: Ahead | None  # None: they are even
    lead: float | None = None  # of the upper over the lower one; None where nothing was measured
    low: float | None = None  # its interval, paired image by image; None for a single image
    high: float | None = None
    scores: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Scorer -> its means for the upper and the lower one; None where it looks at none of the images."""
    reason: str | None = None  # why nothing was measured


class Judge(Protocol):
    """Somebody who compares two checkpoints by their pictures."""

    def judge(self, shown: ShownMatch) -> Judgement:
        """Compare two checkpoints, neither of which has failed.

        Raises:
            BracketError: the judge cannot say, which is no checkpoint's fault.
            UnscorableTrial: the memory is too small.
            OSError: what is shown of the match cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchResult:
    """A match that is over."""

    match: BracketMatch
    winner: int  # number
    judgement: Judgement

    @property
    def is_unsure(self) -> bool:
        """Whether the lead may be luck: its interval reaches 0."""
        low, high = self.judgement.low, self.judgement.high
        return low is not None and high is not None and low <= 0 <= high


def decide(shown: ShownMatch, judge: Judge) -> MatchResult:
    """Decide a match. One that has failed loses; of two that have failed or are even, the lower number goes on."""
    failures = (shown.upper.failure, shown.lower.failure)
    judgement = judge.judge(shown) if failures == (None, None) else _without_judge(shown)
    match = shown.match
    by_number = min(match.upper, match.lower)
    winner = by_number if judgement.ahead is None else getattr(match, judgement.ahead)
    return MatchResult(match=match, winner=winner, judgement=judgement)


def _without_judge(shown: ShownMatch) -> Judgement:
    sides = (shown.upper, shown.lower)
    reason = "; ".join(f"{side.contestant.name}: {side.failure}" for side in sides if side.failure is not None)
    if shown.upper.failure is not None and shown.lower.failure is not None:
        return Judgement(ahead=None, reason=reason)
    return Judgement(ahead="upper" if shown.upper.failure is None else "lower", reason=reason)
