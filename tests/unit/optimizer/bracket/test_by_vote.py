"""Votes of people as the judge of a bracket: every picture once, kept over a restart, undone until a match is over."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from bracket_sides import match_side
from PIL import Image
from torch import Tensor

from optimizer.bracket.by_vote import VoteJudge
from optimizer.bracket.identity import BracketIdentity
from optimizer.bracket.judging import Judgement, ShownMatch
from optimizer.bracket.tree import BracketMatch
from optimizer.bracket.votes_file import VOTES_FILE, read_votes
from optimizer.errors import BracketError
from optimizer.trial.share_interval import wilson_interval
from optimizer.voting.questions import Question
from studies.spec.suite import SuiteSettings

ITEMS = 6
SUITE = SuiteSettings.model_validate({"prompts": [{"prompt": "a lion"}], "seeds": list(range(ITEMS)), "sizes": [64]})
IDENTITY = BracketIdentity(checkpoints=("1", "2"), rounds=("r",), counting=("c",), judge="vote")
SECONDS = 20  # after which a test gives up


def grey(level: int) -> tuple[Tensor, ...]:
    """Pictures of one grey level each, which tells whose they are."""
    return tuple(torch.full((3, 64, 64), level + item, dtype=torch.uint8) for item in range(ITEMS))


def match(upper: int = 1, lower: int = 2) -> ShownMatch:
    """A match of a checkpoint with lighter pictures, the upper one, with one of darker ones."""
    upper_side, lower_side = (match_side(number, grey(100 * (number % 2))) for number in (upper, lower))
    return ShownMatch(
        match=BracketMatch(round=1, upper=upper, lower=lower), suite=SUITE, upper=upper_side, lower=lower_side
    )


def judge_on(folder: Path, *, anew: bool = False) -> VoteJudge:
    return VoteJudge(read_votes(folder, IDENTITY, anew=anew), np.random.default_rng(0))


@contextmanager
def judging(judge: VoteJudge, shown: ShownMatch) -> Iterator[list[Judgement]]:
    """Judge a match on another thread, which ends with the block; yields the list that gets the judgement."""
    found: list[Judgement] = []
    thread = threading.Thread(target=lambda: found.append(judge.judge(shown)), daemon=True)
    thread.start()
    yield found
    thread.join(SECONDS)
    assert not thread.is_alive()


def asked(judge: VoteJudge, person: str = "ann") -> Question:
    """The next question, which there is as soon as the other thread has come so far."""
    for _ in range(SECONDS * 100):
        question = judge.ask(person)
        if question is not None:
            return question
        threading.Event().wait(0.01)
    raise AssertionError("nothing was asked")


def level(judge: VoteJudge, question: Question, side: str) -> int:
    """The grey level of a picture as the page gets it."""
    content = judge.image(question.token, side)
    assert content is not None
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.info == {}
        return int(np.array(picture)[0, 0, 0])


def towards(judge: VoteJudge, question: Question, *, upper: bool) -> str:
    """The answer that prefers the upper checkpoint's picture, or the lower one's."""
    upper_is_left = level(judge, question, "left") > level(judge, question, "right")
    return "left" if upper_is_left == upper else "right"


@pytest.mark.parametrize(("for_upper", "ahead"), [(6, "upper"), (4, "upper"), (3, None), (1, "lower")])
def test_the_side_with_more_votes_goes_on(tmp_path: Path, for_upper: int, ahead: str | None) -> None:
    judge, seen, sides = judge_on(tmp_path), set(), set()
    with judging(judge, match()) as found:
        for index in range(ITEMS):
            question = asked(judge)
            seen.add(min(level(judge, question, side) for side in ("left", "right")))
            answer = towards(judge, question, upper=index < for_upper)
            sides.add(answer)
            assert judge.answer(question.token, answer)
    assert seen == set(range(ITEMS))  # every picture once
    assert sides == {"left", "right"}  # who stands on the left is by chance
    (judgement,) = found
    assert judgement.ahead == ahead
    assert judgement.scores == {"votes": (for_upper, ITEMS - for_upper)}
    assert judgement.lead == pytest.approx(2 * for_upper / ITEMS - 1)
    low, high = wilson_interval(for_upper, ITEMS)
    assert (judgement.low, judgement.high) == pytest.approx((2 * low - 1, 2 * high - 1))
    assert judge.ask("ann") is None
    assert judge.image(question.token, "left") is None


def test_undecided_votes_alone_leave_a_match_even(tmp_path: Path) -> None:
    judge = judge_on(tmp_path)
    with judging(judge, match()) as found:
        for index in range(ITEMS):
            judge.answer(asked(judge).token, ("equal", "both_bad")[index % 2])
    assert found[0].ahead is None
    assert found[0].lead is None


def test_votes_outlive_a_restart_and_count_once(tmp_path: Path) -> None:
    judge = judge_on(tmp_path)
    threading.Thread(target=judge.judge, args=(match(),), daemon=True).start()
    for _ in range(2):
        question = asked(judge)
        judge.answer(question.token, towards(judge, question, upper=True))
    shown = asked(judge, "bob")
    bobs = towards(judge, shown, upper=True)
    again = judge_on(tmp_path)  # as after a kill, while the page still shows Bob his pair
    assert again.answer(shown.token, bobs)
    with judging(again, match()) as found:
        assert again.answer(shown.token, bobs)  # sent twice
        for _ in range(ITEMS - 3):
            question = asked(again)
            assert again.answer(question.token, towards(again, question, upper=True))
    assert found[0].scores == {"votes": (ITEMS, 0)}
    assert read_votes(tmp_path, IDENTITY, anew=True).votes == {}


def test_people_who_vote_at_once_get_pictures_of_their_own_and_the_first_vote_on_one_counts(tmp_path: Path) -> None:
    judge = judge_on(tmp_path)
    with judging(judge, match()) as found:
        shown = [asked(judge, f"p{index % 3}") for index in range(ITEMS)]
        levels = [level(judge, question, "left") % 100 for question in shown]
        assert set(levels) == set(range(ITEMS))  # every picture once
        again = asked(judge, "bob")  # all are shown to somebody: the one that was shown longest ago
        assert level(judge, again, "left") % 100 == levels[0]
        assert judge.answer(again.token, towards(judge, again, upper=True))
        late = towards(judge, shown[0], upper=False)
        assert not judge.answer(shown[0].token, late)
        back = judge.undo("bob")  # then the picture is anyone's again
        assert back is not None
        assert judge.answer(shown[0].token, late)
        assert not judge.answer(again.token, towards(judge, again, upper=True))
        for question in shown[1:]:
            assert judge.answer(question.token, towards(judge, question, upper=True))
    assert found[0].scores == {"votes": (ITEMS - 1, 1)}


def test_each_takes_back_their_own_last_vote_until_the_match_is_decided(tmp_path: Path) -> None:
    judge = judge_on(tmp_path)
    with judging(judge, match()) as found:
        first = asked(judge)
        wrong, right = (towards(judge, first, upper=upper) for upper in (True, False))
        judge.answer(first.token, wrong)
        assert judge.undo("bob") is None
        back = judge.undo("ann")
        assert back is not None
        assert back.token == first.token
        assert judge.undo("ann") is None
        judge.answer(first.token, right)
        for _ in range(ITEMS - 1):
            question = asked(judge)
            judge.answer(question.token, towards(judge, question, upper=True))
    assert found[0].scores == {"votes": (ITEMS - 1, 1)}
    assert judge.undo("ann") is None
    assert judge.answer(first.token, right)  # sent again
    assert not judge.answer(first.token, wrong)
    assert not judge.answer("f" * 32, "left")


def test_votes_of_another_bracket_do_not_count_and_a_damaged_file_is_told(tmp_path: Path) -> None:
    judge = judge_on(tmp_path)
    threading.Thread(target=judge.judge, args=(match(),), daemon=True).start()
    judge.answer(asked(judge).token, "left")
    assert len(read_votes(tmp_path, IDENTITY, anew=False).votes) == 1
    other = BracketIdentity(checkpoints=("1", "3"), rounds=("r",), counting=("c",), judge="vote")
    assert read_votes(tmp_path, other, anew=False).votes == {}
    (tmp_path / VOTES_FILE).write_text("{")
    with pytest.raises(BracketError, match="is damaged, and was written by mergetune"):
        read_votes(tmp_path, IDENTITY, anew=False)
