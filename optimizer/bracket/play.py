"""A bracket played round by round: all checkpoints of a round are rendered, then its matches are judged.

It may be killed at any moment. What is rendered and what is decided is kept, and the next start goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optimizer.bracket.contestants import Contestant
from optimizer.bracket.judging import Judge, MatchResult, MatchSide, ShownMatch, decide
from optimizer.bracket.record import BracketRecord
from optimizer.bracket.rendering import ContestantRenderer, failure_of
from optimizer.bracket.setup import BracketPlan
from optimizer.bracket.tree import BracketMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class BracketWatch:
    """Callbacks of a bracket in progress."""

    started: Callable[[int, int, int], None]  # a round, its matches that are open, and its checkpoints to render
    rendering: Callable[[int, Contestant], None]  # in a round; also a checkpoint whose pictures are there
    rendered: Callable[[int], None]  # images of that checkpoint so far
    judging: Callable[[], None]
    decided: Callable[[MatchResult], None]


@dataclass(frozen=True, kw_only=True)
class Player:
    """A bracket, and all that is needed to play it."""

    plan: BracketPlan
    record: BracketRecord
    renderer: ContestantRenderer
    judge: Judge
    watch: BracketWatch

    def play(self) -> None:
        """Play until there is a winner.

        Raises:
            BracketError: a scorer fails.
            CheckpointError: a checkpoint has changed since the bracket was made ready.
            NoMemoryError, UnscorableTrial: the memory is too small.
            OSError: pictures or results cannot be written.
        """
        while matches := self.record.open_matches:
            number = matches[0].round
            entrants = [each for match in matches for each in (match.upper, match.lower)]
            self.watch.started(number, len(matches), len(entrants))
            for entrant in entrants:
                contestant = self.plan.contestant(entrant)
                self.watch.rendering(number, contestant)
                self.renderer.rendered(number, contestant, self.watch.rendered)
            self.watch.judging()
            for match in matches:
                result = decide(self._shown(match), self.judge)
                self.record.add(result)
                self.watch.decided(result)

    def _shown(self, match: BracketMatch) -> ShownMatch:
        suite = self.plan.suites[match.round - 1]
        upper, lower = (self._side(match.round, number) for number in (match.upper, match.lower))
        return ShownMatch(match=match, suite=suite, upper=upper, lower=lower)

    def _side(self, number: int, entrant: int) -> MatchSide:
        contestant = self.plan.contestant(entrant)
        render = self.renderer.rendered(number, contestant, self.watch.rendered)
        limit = self.plan.bracket.spec.render.degenerate_limit
        return MatchSide(contestant=contestant, images=render.images, failure=failure_of(render, limit))
