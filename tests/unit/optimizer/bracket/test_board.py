"""What the pictures of a bracket say of each match, and which matches lead to it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_files import small_parents
from torch import Tensor

from optimizer.bracket.board import Board, board_of, settings_of, verdict
from optimizer.bracket.contestants import Contestant
from optimizer.bracket.identity import BracketIdentity
from optimizer.bracket.judging import Ahead, Judgement, MatchResult
from optimizer.bracket.picture import MARGIN, MATCH, _placed
from optimizer.bracket.record import BracketRecord
from optimizer.bracket.tree import BracketMatch, rounds_of
from optimizer.merging.files.change_guard import OpenedFiles
from studies.spec.suite import SuiteSettings

MATCH_OF_TWO = BracketMatch(round=1, upper=1, lower=2)
SUITE = SuiteSettings.model_validate({"prompts": ["a lion"], "seeds": [1, 2, 3, 4, 5, 6], "sizes": [64]})


def result(judgement: Judgement, winner: int = 1) -> MatchResult:
    return MatchResult(match=MATCH_OF_TWO, winner=winner, judgement=judgement)


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (Judgement(ahead="upper", lead=1.25, low=1.0, high=1.5), "ahead by 1.25 (+1 to +1.5)"),
        (Judgement(ahead="lower", lead=-1.25, low=-1.5, high=-1.0), "ahead by 1.25 (+1 to +1.5)"),
        (Judgement(ahead="lower", lead=-0.5, low=-1.5, high=0.5), "ahead by 0.5 (-0.5 to +1.5), may be luck"),
        (Judgement(ahead="upper", lead=2.0), "ahead by 2"),
        (Judgement(ahead=None, lead=0.0, low=0.0, high=0.0), "even: the lower number goes on"),
        (Judgement(ahead=None), "even: the lower number goes on"),
        (Judgement(ahead="lower"), "better by eye"),
        (Judgement(ahead="lower", reason="a: flat"), "the other failed: a: flat"),
        (Judgement(ahead=None, reason="a: flat; b: NaN"), "both failed, the lower number goes on: a: flat; b: NaN"),
    ],
)
def test_a_verdict_says_why_the_winner_goes_on(judgement: Judgement, said: str) -> None:
    assert verdict(result(judgement)) == said


def image(round_number: int, contestant: Contestant) -> tuple[Tensor, ...]:
    return tuple(torch.full((3, 8, 8), 10 * contestant.number + round_number, dtype=torch.uint8) for _ in range(6))


def board(count: int, folder: Path) -> Board:
    """Return a bracket in which the higher number always wins."""
    names = tuple(f"model-{number}" for number in range(1, count + 1))
    identity = BracketIdentity(checkpoints=names, rounds=(), counting=(), judge="x")
    record = BracketRecord(folder=folder, identity=identity, names=names)
    while record.open_matches:
        match = record.open_matches[0]
        winner = max(match.upper, match.lower)
        ahead: Ahead = "upper" if winner == match.upper else "lower"
        scores = {"sharpness": (float(match.upper), float(match.lower))}
        record.add(MatchResult(match=match, winner=winner, judgement=Judgement(ahead=ahead, lead=1.0, scores=scores)))
    contestants = [
        Contestant(
            number=number, name=name, checkpoint=small_parents("sd15")[0], sha256=name, opened=OpenedFiles.now({})
        )
        for number, name in enumerate(names, start=1)
    ]
    return board_of(record, contestants, [SUITE] * rounds_of(count), image)


def test_of_five_three_have_no_match_and_the_others_are_led_to_by_those_they_won(tmp_path: Path) -> None:
    shown = board(5, tmp_path)
    numbers = [[[side.number for side in match.sides] for match in each.matches] for each in shown.rounds]
    assert numbers == [[[1], [4, 5], [2], [3]], [[1, 5], [2, 3]], [[5, 3]]]
    feeders = [[match.feeders for match in each.matches] for each in shown.rounds]
    assert feeders == [[(), (None, None), (), ()], [(None, 1), (None, None)], [(0, 1)]]
    assert [each.title for each in shown.rounds] == [
        "round 1: last eight",
        "round 2: final four",
        "round 3: last match",
    ]
    assert shown.champion.name == "model-5"
    assert shown.ranking[:2] == ("model-5", "model-3")


def test_a_side_shows_images_spread_over_the_suite_with_its_own_scores(tmp_path: Path) -> None:
    (match,) = board(2, tmp_path).rounds[0].matches
    assert [side.won for side in match.sides] == [False, True]
    assert [side.scores for side in match.sides] == [("sharpness 1",), ("sharpness 2",)]
    assert match.sides[1].titles == ("a lion, seed 1", "a lion, seed 3", "a lion, seed 5")
    assert {int(each.max()) for each in match.sides[1].images} == {21}


@pytest.mark.parametrize("count", [2, 3, 5, 6, 8, 13])
def test_no_two_matches_of_a_picture_overlap_and_each_stands_between_those_that_lead_to_it(
    tmp_path: Path, count: int
) -> None:
    shown = board(count, tmp_path)
    columns = _placed(shown.rounds)
    assert sum(map(len, columns)) == count - 1
    for number, column in enumerate(columns):
        heights = [placed.y for _, placed in sorted(column.items())]
        assert heights == sorted(heights)
        assert all(below - above >= MATCH + MARGIN - 1 for above, below in pairwise(heights))
        for placed in column.values():
            before = [columns[number - 1][feeder].y for feeder in placed.match.feeders if feeder is not None]
            assert not before or abs(placed.y - sum(before) / len(before)) <= 1


def test_settings_that_differ_between_prompts_are_told_from_the_least_to_the_most() -> None:
    prompts = ["a lion", {"prompt": "a fox", "steps": 30, "cfg": 3.5, "sampler": "euler"}]
    suite = SuiteSettings.model_validate({"prompts": prompts, "steps": 20, "cfg": 7, "sizes": [64]})
    assert settings_of(suite) == "2 images of 2 prompts, 20 to 30 steps, cfg 3.5 to 7, dpmpp_2m, euler"
    assert settings_of(SUITE) == "6 images of 1 prompt, 20 steps, cfg 7, dpmpp_2m"
