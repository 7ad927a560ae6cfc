"""Votes on pairs: the next pair of a study, and what was voted so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np

from optimizer.outcome.voted_final import refresh_final
from optimizer.preference.model import Preference, fit
from optimizer.preference.values import refresh_preference
from optimizer.voting.candidates import LOOKS_AGAIN, Candidates, load_candidates, render_png
from optimizer.voting.final_pairs import choose_final_pair
from optimizer.voting.pairs import Pair, choose_pair
from optimizer.voting.questions import Question, QuestionKind
from optimizer.voting.study_questions import StudyQuestions
from studies.files.artifacts import Artifacts
from studies.records.judgements import load_judgements
from studies.records.study_records import StudyRecords
from studies.records.votes import Verdict, Vote, cast_vote, load_pair, load_votes, show_pair, take_back


class Ballots(StudyQuestions):
    """The votes of one study, as questions for a page."""

    kind: Final[QuestionKind] = "pair"
    waiting: Final = f"there are no two finished trials with stored renders yet: {LOOKS_AGAIN}"

    def __init__(self, records: StudyRecords, artifacts: Artifacts, random: np.random.Generator | None = None) -> None:
        super().__init__(records, artifacts, lambda now: load_candidates(now, artifacts), random)

    @property
    def explanation(self) -> str:
        """What is shown."""
        return f"Study {self.name}. Two renders of one prompt and seed, from two trials: nobody is told which."

    def ask(self, person: str) -> Question | None:
        """Return the next pair for a person; None where there are no two renders to compare yet."""
        records, candidates = self._now, self._candidates.load()
        if len(candidates.trials) < 2:
            return None
        held_out = candidates.held_out
        votes = load_votes(records, held_out=held_out)
        said = votes if held_out else load_judgements(records)
        preference = fit(said, candidates.numbers, candidates.points)
        with self._lock:
            pair = self._pair(candidates, preference, votes)
        if pair is None:
            return None
        shown = show_pair(records, person, pair.item, pair.left, pair.right, held_out=held_out)
        return self._question(shown, votes)

    def _pair(self, candidates: Candidates, preference: Preference, votes: Sequence[Vote]) -> Pair | None:
        """Return the next pair; call it under the lock."""
        if candidates.held_out:
            return choose_final_pair(preference, candidates.items, candidates.parents, votes, self._random)
        return choose_pair(preference, candidates.items, votes, self._random)

    def image(self, token: str, side: str) -> bytes | None:
        """Return a render of a pair: see `Questions`."""
        vote = load_pair(self._records, token)
        if vote is None:
            return None
        number = vote.left if side == "left" else vote.right
        return render_png(self._records, self._artifacts, number, vote.item, held_out=vote.held_out)

    def answer(self, token: str, answer: str) -> bool:
        """Store a vote, and what follows for the study's objective or final; False where the vote's pair is gone.

        The vote is stored even where what follows cannot be: it is computed anew with the next one.
        """
        stored = cast_vote(self._records, token, cast("Verdict", answer))
        if stored:
            self._refresh()
        return stored

    def undo(self, person: str) -> Question | None:
        """Take back the last vote of a person, and return its pair; None where there is none."""
        records = self._now
        vote = take_back(records, person)
        if vote is None:
            return None
        self._refresh()
        return self._question(vote, load_votes(records, held_out=vote.held_out))

    def _refresh(self) -> None:
        with self._reported():
            refresh_preference(self._records)
            refresh_final(self._records)

    def _question(self, vote: Vote, votes: Sequence[Vote]) -> Question:
        people = [each.person for each in votes]
        return self._asked(vote.token, vote.item, vote.person, people, "vote", held_out=vote.held_out)
