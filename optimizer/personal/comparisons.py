"""What people compared in all studies of a database, and which stored renders it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from studies.files.artifacts import Artifacts
from studies.records.database import Database
from studies.records.judgements import load_judgements
from studies.records.kept_renders import final_renders
from studies.records.stored_renders import load_renders
from studies.records.stored_studies import list_studies
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.votes import SHARES, Vote, load_votes

_Answer = tuple[str, float | None, str, int]  # person, when, prompt and seed: the same in a clone


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
    lost: int  # comparisons of which a render is not stored, or not any more

    @property
    def people(self) -> tuple[str, ...]:
        """Those who voted or rated, by name."""
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
        """How many prefer neither: equal, both bad, or rated the same."""
        return sum(each.share == SHARES["equal"] for each in self.comparisons)


def load_comparisons(database: Database, artifacts: Artifacts, people: Collection[str] = ()) -> Compared:
    """Read the votes and ratings of all studies that can be read here, each once: clones have copies of them.

    Args:
        artifacts: where the studies' renders are.
        people: whose votes to read; none: everybody's.

    Raises:
        StudyChangedError: the renders of a trial are not those of its study's suite.
    """
    found: dict[_Answer, ComparedRenders | None] = {}
    for records in list_studies(database):
        for answer, compared in _of_study(records, artifacts, people):
            found[answer] = found.get(answer) or compared
    comparisons = tuple(each for each in found.values() if each is not None)
    return Compared(comparisons=comparisons, lost=len(found) - len(comparisons))


def _of_study(
    records: StudyRecords, artifacts: Artifacts, people: Collection[str]
) -> Iterator[tuple[_Answer, ComparedRenders | None]]:
    """Yield a study's votes and ratings as comparisons; None for one of which a render is not stored."""
    said = (*load_judgements(records), *load_votes(records, held_out=True))
    judged = [vote for vote in said if not people or vote.person in people]
    files = _files(records, artifacts, judged)
    suites = {False: records.study.spec.suite.items(), True: records.study.spec.held_out.items()}
    for vote in judged:
        if vote.verdict is None:
            continue
        first, second = (files.get((vote.held_out, number, vote.item)) for number in (vote.left, vote.right))
        item = suites[vote.held_out][vote.item]
        compared = None
        if first is not None and second is not None:
            compared = ComparedRenders(
                first=first,
                second=second,
                share=SHARES[vote.verdict],
                person=vote.person,
                item=(item.prompt, item.seed),
            )
        yield (vote.person, vote.voted_at, item.prompt, item.seed), compared


def _files(
    records: StudyRecords, artifacts: Artifacts, judged: Sequence[Vote]
) -> dict[tuple[bool, int, int], str | None]:
    """Return the files of renders, by whether they are of the final, trial and item."""
    shown = {
        held_out: {number for vote in judged if vote.held_out == held_out for number in (vote.left, vote.right)}
        for held_out in (False, True)
    }
    trials = [trial for trial in load_trials(records) if trial.number in shown[False]] if shown[False] else []
    searched: dict[tuple[bool, int, int], str | None] = {
        (False, trial.number, render.item): render.file for trial in trials for render in load_renders(records, trial)
    }
    return searched | {
        (True, number, item): file
        for number in shown[True]
        for item, file in enumerate(final_renders(records.study, artifacts, number))
    }
