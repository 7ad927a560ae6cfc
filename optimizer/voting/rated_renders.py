"""Ratings of single renders: which is shown next, and what was rated so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from optimizer.preference.values import refresh_preference
from optimizer.voting.candidates import LOOKS_AGAIN, load_searched, render_png
from optimizer.voting.questions import Question, QuestionKind
from optimizer.voting.study_questions import StudyQuestions
from studies.files.artifacts import Artifacts
from studies.records.ratings import (
    Rating,
    load_ratings,
    load_shown_render,
    show_render,
    store_rating,
    take_rating_back,
)
from studies.records.study_records import StudyRecords


class RatedRenders(StudyQuestions):
    """The ratings of one study, as questions for a page."""

    kind: Final[QuestionKind] = "rating"
    waiting: Final = f"there is no finished trial with stored renders yet: {LOOKS_AGAIN}"

    def __init__(self, records: StudyRecords, artifacts: Artifacts, random: np.random.Generator | None = None) -> None:
        super().__init__(records, artifacts, load_searched, random)

    @property
    def explanation(self) -> str:
        """What is shown."""
        return f"Study {self.name}. One render of one trial, 0 (worst) to 10 (best): nobody is told which trial it is."

    def ask(self, person: str) -> Question | None:
        """Return a render for a person, one of those that they rated least often; None where there is none yet."""
        records, items = self._now, self._candidates.load().items
        ratings = load_ratings(records)
        own = Counter((each.number, each.item) for each in ratings if each.person == person)
        renders = [(number, item) for number, shown in items.items() for item in sorted(shown)]
        if not renders:
            return None
        least = min(own[render] for render in renders)
        open_renders = [render for render in renders if own[render] == least]
        with self._lock:
            number, item = open_renders[self._random.integers(len(open_renders))]
        return self._question(show_render(records, person, item, number), ratings)

    def image(self, token: str, side: str) -> bytes | None:
        """Return the render, which is on the left: see `Questions`."""
        shown = load_shown_render(self._records, token) if side == "left" else None
        if shown is None:
            return None
        return render_png(self._records, self._artifacts, shown.number, shown.item, held_out=False)

    def answer(self, token: str, answer: str) -> bool:
        """Store a rating, and what follows for the study's objective; False where its render is gone."""
        stored = store_rating(self._records, token, int(answer))
        if stored:
            self._refresh()
        return stored

    def undo(self, person: str) -> Question | None:
        """Take back the last rating of a person, and return its render; None where there is none."""
        records = self._now
        rating = take_rating_back(records, person)
        if rating is None:
            return None
        self._refresh()
        return self._question(rating, load_ratings(records))

    def _refresh(self) -> None:
        with self._reported():
            refresh_preference(self._records)

    def _question(self, shown: Rating, ratings: Sequence[Rating]) -> Question:
        return self._asked(shown.token, shown.item, shown.person, [each.person for each in ratings], "rating")
