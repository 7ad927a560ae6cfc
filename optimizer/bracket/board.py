"""What the pictures of a bracket show: its rounds, matches and sides with a few images each, and the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from basics.messages import counted
from optimizer.bracket.contestants import Contestant
from optimizer.bracket.judging import Judgement, MatchResult
from optimizer.bracket.record import BracketRecord
from optimizer.bracket.tree import BracketMatch, TreeRound
from studies.spec.suite import SuiteSettings

SHOWN_IMAGES: Final = 3  # of a checkpoint in a match


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSide:
    """A checkpoint in a match."""

    number: int
    name: str
    images: tuple[Tensor, ...]  # uint8 [3, h, w]
    titles: tuple[str, ...]  # of the images
    scores: tuple[str, ...]  # such as `clip_score 0.281`
    won: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardMatch:
    """A match, or a checkpoint that goes on without one."""

    sides: tuple[BoardSide, ...]
    verdict: str
    unsure: bool
    feeders: tuple[int | None, ...]  # index in the round before, of the match that each side won; None: it won none


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRound:
    """A round, from top to bottom."""

    title: str
    settings: str
    matches: tuple[BoardMatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A bracket that is over."""

    title: str
    rounds: tuple[BoardRound, ...]
    ranking: tuple[str, ...]  # names, best first
    champion: BoardSide


def board_of(
    record: BracketRecord,
    contestants: Sequence[Contestant],
    suites: Sequence[SuiteSettings],
    images: Callable[[int, Contestant], tuple[Tensor, ...]],
) -> Board:
    """Return what to show of a bracket that is over.

    Args:
        contestants: by number.
        suites: of the rounds.
        images: returns the pictures of a contestant in a round, uint8 [3, h, w] in the suite's order.
    """
    drawing = _Drawing(record, record.rounds, contestants, suites, images)
    rounds = tuple(drawing.round(number) for number in range(1, len(drawing.tree) + 1))
    champion = next(side for side in rounds[-1].matches[0].sides if side.won)
    return Board(
        title=f"{counted(len(contestants), 'checkpoint')}, {counted(len(rounds), 'round')}",
        rounds=rounds,
        ranking=tuple(contestants[number - 1].name for number in record.ranking),
        champion=champion,
    )


@dataclass(frozen=True)
class _Drawing:
    record: BracketRecord
    tree: Sequence[TreeRound]
    contestants: Sequence[Contestant]
    suites: Sequence[SuiteSettings]
    images: Callable[[int, Contestant], tuple[Tensor, ...]]

    def round(self, number: int) -> BoardRound:
        suite = self.suites[number - 1]
        return BoardRound(
            title=round_title(number, len(self.tree)),
            settings=settings_of(suite),
            matches=tuple(
                self._match(number, pairing, index) for index, pairing in enumerate(self.tree[number - 1].pairings)
            ),
        )

    def _match(self, round_number: int, pairing: tuple[int, ...], index: int) -> BoardMatch:
        if len(pairing) == 1:
            return BoardMatch(sides=(self._idle(pairing[0]),), verdict="no match", unsure=False, feeders=())
        result = self.record.results[BracketMatch(round=round_number, upper=pairing[0], lower=pairing[1])]
        return BoardMatch(
            sides=tuple(self._side(result, number) for number in pairing),
            verdict=verdict(result),
            unsure=result.is_unsure,
            feeders=tuple(self._feeder(round_number, 2 * index + side) for side in range(2)),
        )

    def _feeder(self, round_number: int, index: int) -> int | None:
        if round_number == 1:
            return None
        return index if len(self.tree[round_number - 2].pairings[index]) == 2 else None

    def _idle(self, number: int) -> BoardSide:
        name = self.contestants[number - 1].name
        return BoardSide(number=number, name=name, images=(), titles=(), scores=(), won=True)

    def _side(self, result: MatchResult, number: int) -> BoardSide:
        match, contestant = result.match, self.contestants[number - 1]
        items = self.suites[match.round - 1].items()
        images = self.images(match.round, contestant)
        chosen = sorted({index * len(images) // SHOWN_IMAGES for index in range(SHOWN_IMAGES)}) if images else []
        return BoardSide(
            number=number,
            name=contestant.name,
            images=tuple(images[index] for index in chosen),
            titles=tuple(f"{items[index].prompt}, seed {items[index].seed}" for index in chosen),
            scores=_scores(result.judgement.scores, 0 if number == match.upper else 1),
            won=number == result.winner,
        )


def _scores(scores: Mapping[str, tuple[float | None, float | None]], side: int) -> tuple[str, ...]:
    return tuple(f"{name} {both[side]:.4g}" for name, both in scores.items() if both[side] is not None)


# ------------------------------------------------------------------------------------------ in words


def round_title(number: int, count: int) -> str:
    """Return the name of a round: `round 2`, or what the last three are called.

    Args:
        number: from 1.
        count: of rounds.
    """
    names = {0: "last match", 1: "final four", 2: "last eight"}
    return f"round {number}" if count - number not in names else f"round {number}: {names[count - number]}"


def settings_of(suite: SuiteSettings) -> str:
    """Return the settings of a round's images in one line: where they differ, from the least to the most."""
    items = suite.items()
    samplings = [item.sampling for item in items]
    samplers = dict.fromkeys(each.sampler for each in samplings)
    return (
        f"{counted(len(items), 'image')} of {counted(len({item.prompt for item in items}), 'prompt')}, "
        f"{_range(each.steps for each in samplings)} steps, cfg {_range(each.cfg for each in samplings)}, "
        f"{', '.join(samplers)}"
    )


def _range(numbers: Iterable[float]) -> str:
    low, *others = sorted(set(numbers))
    return f"{low:g} to {others[-1]:g}" if others else f"{low:g}"


def verdict(result: MatchResult) -> str:
    """Say in a few words why the winner of a match goes on."""
    judgement = result.judgement
    if judgement.reason is not None and judgement.lead is None:
        others = "the other failed" if judgement.ahead is not None else "both failed, the lower number goes on"
        return f"{others}: {judgement.reason}"
    if judgement.ahead is None:
        return "even: the lower number goes on"
    if judgement.lead is None:
        return "better by eye"
    return f"ahead by {_lead(judgement)}" + (", may be luck" if result.is_unsure else "")


def _lead(judgement: Judgement) -> str:
    """Return the lead of the side that is ahead with its interval, as `1.23 (0.98 to 1.48)`."""
    assert judgement.lead is not None  # noqa: S101 - the caller has asked
    value = abs(judgement.lead)
    if judgement.low is None or judgement.high is None:
        return f"{value:.3g}"
    low, high = sorted((judgement.low, judgement.high) if judgement.lead > 0 else (-judgement.low, -judgement.high))
    return f"{value:.3g} ({low:+.3g} to {high:+.3g})"
