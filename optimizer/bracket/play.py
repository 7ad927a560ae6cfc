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


def play(
    plan: BracketPlan, record: BracketRecord, renderer: ContestantRenderer, judge: Judge, watch: BracketWatch
) -> None:
    """Play a bracket until there is a winner.

    Args:
        record: what is decided of it; results are added.

    Raises:
        BracketError: a scorer fails.
        CheckpointError: a checkpoint has changed since the bracket was made ready.
        NoMemoryError, UnscorableTrial: the memory is too small.
        OSError: pictures or results cannot be written.
    """

    def side(round_number: int, number: int) -> MatchSide:
        contestant = plan.contestant(number)
        render = renderer.rendered(round_number, contestant, watch.rendered)
        limit = plan.bracket.spec.render.degenerate_limit
        return MatchSide(contestant=contestant, images=render.images, failure=failure_of(render, limit))

    def shown(match: BracketMatch) -> ShownMatch:
        upper, lower = (side(match.round, number) for number in (match.upper, match.lower))
        return ShownMatch(match=match, suite=plan.suites[match.round - 1], upper=upper, lower=lower)

    while matches := record.open_matches:
        numbers = [number for match in matches for number in (match.upper, match.lower)]
        watch.started(matches[0].round, len(matches), len(numbers))
        for contestant in map(plan.contestant, numbers):
            watch.rendering(matches[0].round, contestant)
            renderer.rendered(matches[0].round, contestant, watch.rendered)
        watch.judging()
        for match in matches:
            result = decide(shown(match), judge)
            record.add(result)
            watch.decided(result)
