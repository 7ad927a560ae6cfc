"""What the votes and the ratings of a study have in common as questions for a page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from basics.errors import MergetuneError
from basics.messages import counted, first_line
from optimizer.system.retry import OUTAGES
from optimizer.voting.candidates import Candidates, LatestCandidates
from optimizer.voting.questions import Question
from studies.files.artifacts import Artifacts
from studies.records.stored_studies import reread
from studies.records.study_records import StudyRecords

LOGGER = logging.getLogger(__name__)


class StudyQuestions:
    """The base of questions about the stored renders of one study.

    Args:
        candidates: reads what is asked about, of the study as it is now.
        random: where chance comes from.
    """

    def __init__(
        self,
        records: StudyRecords,
        artifacts: Artifacts,
        candidates: Callable[[StudyRecords], Candidates],
        random: np.random.Generator | None = None,
    ) -> None:
        self._records, self._artifacts = records, artifacts
        self._random = np.random.default_rng() if random is None else random
        self._lock = threading.Lock()  # a generator is one thread's
        self._candidates = LatestCandidates(lambda: candidates(self._now))

    @property
    def name(self) -> str:
        """The study's name."""
        return self._records.study.name

    @property
    def identity(self) -> str:
        """The study's key."""
        return self._records.study.key

    @property
    def _now(self) -> StudyRecords:
        """The study as it is now: a page may be open for days, and studies are renamed and deleted meanwhile.

        Raises:
            StudyMissingError: it was deleted.
        """
        return reread(self._records)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Log what goes wrong with what follows from an answer. The answer itself is stored, so nothing is lost."""
        try:
            yield
        except (MergetuneError, SQLAlchemyError, OSError, *OUTAGES) as error:
            LOGGER.warning("study %s is not up to date with its votes: %s", self.name, first_line(error))

    def _asked(
        self, token: str, item: int, person: str, answered: Sequence[str], noun: str, *, held_out: bool = False
    ) -> Question:
        """Return a question about an item.

        Args:
            answered: the person of each answer so far.
            noun: what an answer is called.
            held_out: whether the item is of the final's suite.
        """
        spec, trials = self._records.study.spec, counted(len(self._candidates.load().trials), "trial")
        where = "in the final" if held_out else f"on {trials}"
        return Question(
            token=token,
            prompt=(spec.held_out if held_out else spec.suite).items()[item].prompt,
            progress=f"{counted(answered.count(person), noun)} of yours, {len(answered)} in all, {where}",
        )
