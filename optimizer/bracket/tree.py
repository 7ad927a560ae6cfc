"""The tree of a bracket: who meets whom, who goes on without a match, and who came how far.

Contestants have the numbers 1 to n, in the order in which they were given. The tree is the usual one of a knockout
tournament: number 1 would meet number 2 in the last match, and either of them 3 and 4 in the round before it, if the
lower number always won. Where n is no power of two, the lowest numbers go on to the second round without a match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BracketMatch:
    """Two contestants that meet, by their numbers."""

    round: int  # from 1
    upper: int
    lower: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRound:
    """A round of the tree, from top to bottom."""

    matches: tuple[BracketMatch, ...]
    pairings: tuple[tuple[int, ...], ...]  # two contestants that meet, or one that goes on without a match


def rounds_of(count: int) -> int:
    """Return how many rounds a bracket of two contestants or more has."""
    return (count - 1).bit_length()


def opening_pairings(count: int) -> list[tuple[int, ...]]:
    """Return the pairings of the first round from top to bottom: two contestants that meet, or one alone."""
    order = [1]
    for _ in range(rounds_of(count)):
        order = [number for strong in order for number in (strong, 2 * len(order) + 1 - strong)]
    pairs = zip(order[::2], order[1::2], strict=True)
    return [tuple(sorted(number for number in pair if number <= count)) for pair in pairs]


def next_pairings(winners: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the pairings of the next round from those who won the last one, from top to bottom."""
    return list(zip(winners[::2], winners[1::2], strict=True))


def matches_of(number: int, pairings: Sequence[tuple[int, ...]]) -> tuple[BracketMatch, ...]:
    """Return the matches among the pairings of a round.

    Args:
        number: of the round, from 1.
    """
    return tuple(BracketMatch(round=number, upper=pair[0], lower=pair[1]) for pair in pairings if len(pair) == 2)


def played(count: int, winner: Callable[[BracketMatch], int | None]) -> list[TreeRound]:
    """Return the rounds as far as it is known who plays in them.

    Args:
        winner: returns the number of a match's winner, None while it is not played.
    """
    rounds, pairings = list[TreeRound](), opening_pairings(count)
    for number in range(1, rounds_of(count) + 1):
        matches = matches_of(number, pairings)
        rounds.append(TreeRound(matches=matches, pairings=tuple(pairings)))
        winners = {(match.upper, match.lower): winner(match) for match in matches}
        ahead = [pair[0] if len(pair) == 1 else winners[pair[0], pair[1]] for pair in pairings]
        known = [each for each in ahead if each is not None]
        if len(known) < len(ahead) or len(known) == 1:
            break
        pairings = next_pairings(known)
    return rounds


def ranking(rounds: Sequence[TreeRound], winner: Callable[[BracketMatch], int]) -> list[int]:
    """Return the contestants of a bracket that is over, best first.

    Of those who lost in one round, the one who lost to the better one is the better.
    """
    last = rounds[-1].matches[0]
    ranked = [winner(last)]
    for each in reversed(rounds):
        lost = {match.lower if winner(match) == match.upper else match.upper: winner(match) for match in each.matches}
        before = list(ranked)
        ranked += sorted(lost, key=lambda number: before.index(lost[number]))
    return ranked
