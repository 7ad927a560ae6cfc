"""What a page asks people: one question after another, each about one or two pictures that nothing names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from studies.records.ratings import BEST_RATING, WORST_RATING
from studies.records.votes import VERDICTS

QuestionKind = Literal["pair", "rating"]

#: Kind of question -> the answers that a page may send.
ANSWERS: Final[Mapping[QuestionKind, tuple[str, ...]]] = {
    "pair": VERDICTS,
    "rating": tuple(map(str, range(WORST_RATING, BEST_RATING + 1))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as a person sees it: nothing says whose pictures they are."""

    token: str
    prompt: str
    progress: str  # how much was answered so far, in words


class Questions(Protocol):
    """Where questions come from and answers go. Requests come from several threads."""

    @property
    def kind(self) -> QuestionKind: ...

    @property
    def name(self) -> str:
        """Of the study or bracket, for the page's title."""
        ...

    @property
    def identity(self) -> str:
        """What tells the study or bracket from every other, whatever their names: letters, digits and hyphens."""
        ...

    @property
    def explanation(self) -> str:
        """What is shown and asked, in a sentence or two."""
        ...

    @property
    def waiting(self) -> str:
        """What to say while there is nothing to ask."""
        ...

    def ask(self, person: str) -> Question | None:
        """Return the next question for a person; None where there is nothing to ask."""
        ...

    def image(self, token: str, side: str) -> bytes | None:
        """Return a picture of a question as PNG, without texts; None if it is not there.

        Args:
            side: "left" or "right"; a single picture is on the left.

        Raises:
            ArtifactError: the picture is gone or damaged, or the store fails.
        """
        ...

    def answer(self, token: str, answer: str) -> bool:
        """Store one of the kind's answers; False where its question is gone."""
        ...

    def undo(self, person: str) -> Question | None:
        """Take back the last answer of a person, and return its question; None where there is none."""
        ...
