"""What people compared in all studies of a database, and which stored renders it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from studies.records.database import Database
from studies.records.stored_renders import load_renders
from studies.records.stored_studies import list_studies
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.votes import SHARES, load_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRenders:
    """Two stored renders of one item, and what a person said of them."""

    first: str  # its file in the artifact store
    second: str
    share: float  # of the vote that the first one gets: 1, 0.5 or 0
    person: str
    item: tuple[str, int]  # prompt and seed: studies that copied trials have renders in common


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What can be learned from, and how much cannot."""

    comparisons: tuple[ComparedRenders, ...]
    lost: int  # votes of which a render is not stored, or not any more

    @property
    def people(self) -> tuple[str, ...]:
        """Those who voted, by name."""
        return tuple(sorted({each.person for each in self.comparisons}))

    @property
    def files(self) -> tuple[str, ...]:
        """The files of all renders, each once."""
        return tuple(dict.fromkeys(file for each in self.comparisons for file in (each.first, each.second)))

    @property
    def items(self) -> int:
        """How many items there are."""
        return len({each.item for each in self.comparisons})

    @property
    def undecided(self) -> int:
        """How many votes prefer neither: equal, or both bad."""
        return sum(each.share == SHARES["equal"] for each in self.comparisons)


def load_comparisons(database: Database, people: Collection[str] = ()) -> Compared:
    """Read the votes of all studies that can be read here.

    Args:
        people: whose votes to read; none: everybody's.

    Raises:
        StudyChangedError: the renders of a trial are not those of its study's suite.
    """
    found = [each for records in list_studies(database) for each in _of_study(records, people)]
    comparisons = tuple(each for each in found if each is not None)
    return Compared(comparisons=comparisons, lost=len(found) - len(comparisons))


def _of_study(records: StudyRecords, people: Collection[str]) -> Iterator[ComparedRenders | None]:
    """Yield a study's votes as comparisons; None for one of which a render is not stored."""
    votes = [vote for vote in load_votes(records) if not people or vote.person in people]
    shown = {number for vote in votes for number in (vote.left, vote.right)}
    trials = [trial for trial in load_trials(records) if trial.number in shown] if votes else []
    files = {(trial.number, render.item): render.file for trial in trials for render in load_renders(records, trial)}
    items = records.study.spec.suite.items()
    for vote in votes:
        first, second = files.get((vote.left, vote.item)), files.get((vote.right, vote.item))
        if first is None or second is None or vote.verdict is None:
            yield None
            continue
        item = items[vote.item]
        yield ComparedRenders(
            first=first,
            second=second,
            share=SHARES[vote.verdict],
            person=vote.person,
            item=(item.prompt, item.seed),
        )
