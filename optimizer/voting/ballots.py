"""Votes on pairs: the next pair of a study, and what was voted so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from optimizer.preference.model import fit
from optimizer.preference.values import refresh_preference
from optimizer.voting.candidates import LOOKS_AGAIN
from optimizer.voting.pairs import choose_pair
from optimizer.voting.questions import Question, QuestionKind
from optimizer.voting.study_questions import StudyQuestions
from studies.records.votes import Verdict, Vote, cast_vote, load_pair, load_votes, show_pair, take_back


class Ballots(StudyQuestions):
    """The votes of one study, as questions for a page."""

    kind: Final[QuestionKind] = "pair"
    waiting: Final = f"there are no two finished trials with stored renders yet: {LOOKS_AGAIN}"

    @property
    def explanation(self) -> str:
        """What is shown."""
        return f"Study {self.name}. Two renders of one prompt and seed, from two trials: nobody is told which."

    def ask(self, person: str) -> Question | None:
        """Return the next pair for a person; None where there are no two renders to compare yet."""
        candidates = self._candidates.load()
        if len(candidates.trials) < 2:
            return None
        votes = load_votes(self._records)
        preference = fit(votes, candidates.numbers, candidates.points)
        with self._lock:
            pair = choose_pair(preference, candidates.items, votes, self._random)
        if pair is None:
            return None
        return self._question(show_pair(self._records, person, pair.item, pair.left, pair.right), votes)

    def image(self, token: str, side: str) -> bytes | None:
        """Return a render of a pair: see `Questions`."""
        vote = load_pair(self._records, token)
        return None if vote is None else self._candidates.image(vote.left if side == "left" else vote.right, vote.item)

    def answer(self, token: str, answer: str) -> bool:
        """Store a vote, and what follows for the study's objective; False where the vote's pair is gone."""
        stored = cast_vote(self._records, token, cast("Verdict", answer))
        if stored:
            refresh_preference(self._records)
        return stored

    def undo(self, person: str) -> Question | None:
        """Take back the last vote of a person, and return its pair; None where there is none."""
        vote = take_back(self._records, person)
        if vote is None:
            return None
        refresh_preference(self._records)
        return self._question(vote, load_votes(self._records))

    def _question(self, vote: Vote, votes: Sequence[Vote]) -> Question:
        return self._asked(vote.token, vote.item, vote.person, [each.person for each in votes], "vote")
