"""What people prefer: every trial that was voted on, with its lead over the better parent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from optimizer.preference.model import Lead, Tally, fit, tally
from optimizer.preference.points import points_of
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.votes import load_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A trial in the order of preference."""

    number: int
    name: str
    votes: int  # that it had a part in
    lead: Lead | None  # over the better parent, in log-odds; None where no parent was voted on, or it is that parent
    over: str | None  # name of that parent
    tally: Tally | None  # the votes between the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """The trials that were voted on, the most preferred first."""

    rows: tuple[Standing, ...]
    votes: int
    people: tuple[str, ...]  # who voted


def load_standings(records: StudyRecords) -> Standings:
    """Read the votes of a study, and work out what they say."""
    votes = load_votes(records)
    counts = Counter(number for vote in votes for number in (vote.left, vote.right))
    trials = {trial.number: trial for trial in load_trials(records) if trial.is_whole and trial.number in counts}
    people = tuple(dict.fromkeys(vote.person for vote in votes))
    if not trials:
        return Standings(rows=(), votes=len(votes), people=people)
    preference = fit(votes, tuple(trials), points_of(records, tuple(trials.values())))
    ranked = preference.ranked
    parent = next((number for number in ranked if trials[number].origin.parent is not None), None)
    rows = tuple(
        Standing(
            number=number,
            name=trials[number].name,
            votes=counts[number],
            lead=None if parent is None or number == parent else preference.lead(number, parent),
            over=None if parent is None or number == parent else trials[parent].name,
            tally=None if parent is None or number == parent else tally(votes, number, parent),
        )
        for number in ranked
    )
    return Standings(rows=rows, votes=len(votes), people=people)
