"""The tree of a bracket is that of a knockout tournament, whatever the number of contestants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.bracket.tree import BracketMatch, matches_of, opening_pairings, played, ranking, rounds_of


def lower_number(match: BracketMatch) -> int:
    return min(match.upper, match.lower)


@given(count=st.integers(2, 70), order=st.randoms(use_true_random=False))
def test_everybody_but_the_winner_loses_once(count: int, order: object) -> None:
    strengths = list(range(count))
    order.shuffle(strengths)  # type: ignore[attr-defined]

    def winner(match: BracketMatch) -> int:
        return max(match.upper, match.lower, key=lambda number: strengths[number - 1])

    rounds = played(count, winner)
    matches = [match for each in rounds for match in each.matches]
    losers = [match.lower if winner(match) == match.upper else match.upper for match in matches]
    champion = strengths.index(count - 1) + 1
    assert len(rounds) == rounds_of(count)
    assert sorted([*losers, champion]) == list(range(1, count + 1))
    ranked = ranking(rounds, winner)
    assert ranked[0] == champion
    assert sorted(ranked) == list(range(1, count + 1))


@pytest.mark.parametrize(("count", "idle"), [(2, 0), (3, 1), (4, 0), (9, 7), (12, 4), (17, 15)])
def test_the_lowest_numbers_have_no_match_in_the_first_round(count: int, idle: int) -> None:
    alone = sorted(pair[0] for pair in opening_pairings(count) if len(pair) == 1)
    assert alone == list(range(1, idle + 1))


@pytest.mark.parametrize("count", [4, 9, 16, 17, 33])
def test_if_the_lower_number_always_wins_the_last_four_are_the_first_four(count: int) -> None:
    rounds = played(count, lower_number)
    assert {number for match in rounds[-2].matches for number in (match.upper, match.lower)} == {1, 2, 3, 4}
    assert [(match.upper, match.lower) for match in rounds[-1].matches] == [(1, 2)]


def test_the_order_of_eight_is_the_usual_one() -> None:
    assert opening_pairings(8) == [(1, 8), (4, 5), (2, 7), (3, 6)]


def test_a_round_is_known_when_the_one_before_it_is_decided() -> None:
    first = matches_of(1, opening_pairings(4))
    assert len(played(4, lambda _: None)) == 1
    assert len(played(4, {first[0]: 1}.get)) == 1
    assert played(4, {first[0]: 4, first[1]: 2}.get)[1].matches == (BracketMatch(round=2, upper=4, lower=2),)


def test_of_two_that_lost_in_one_round_the_one_who_lost_to_the_better_is_the_better() -> None:
    winners = {(1, 4): 4, (2, 3): 2, (4, 2): 2}
    assert ranking(
        played(4, lambda match: winners[match.upper, match.lower]), lambda match: winners[match.upper, match.lower]
    ) == [2, 4, 3, 1]
