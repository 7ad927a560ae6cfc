"""What people prefer: every trial that was voted on or rated, with its lead over the better parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.preference.model import Floats, Lead, Tally, fit, tally
from optimizer.preference.points import points_of
from optimizer.trial.objective import SINGLE
from optimizer.voting.mean_ratings import MeanRating, mean_ratings
from studies.records.finals import load_final
from studies.records.judgements import rated_pairs
from studies.records.ratings import load_ratings
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.records.votes import Vote, load_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredTrial:
    """A trial in the order of preference."""

    number: int
    name: str
    votes: int  # that it had a part in
    lead: Lead | None  # over the better parent, in log-odds; None where no parent was voted on, or it is that parent
    over: str | None  # name of that parent
    tally: Tally | None  # the votes between the two
    rating: MeanRating | None  # None where nobody rated it


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredTrials:
    """The trials that were compared, the most preferred first, then those that ratings compare with none."""

    rows: tuple[PreferredTrial, ...]
    votes: int
    ratings: int
    people: tuple[str, ...]  # who voted or rated


def load_preferred_in_final(records: StudyRecords) -> PreferredTrials:
    """Read the votes on the renders of the present final, and work out what they say; no rows where there are none.

    Leads are over the parent that the final compares with.
    """
    final = load_final(records)
    scored = {} if final is None else {each.number: each for each in final.finalists if each.failure is None}
    votes = [vote for vote in load_votes(records, held_out=True) if {vote.left, vote.right} <= scored.keys()]
    trials = {trial.number: trial for trial in load_trials(records) if trial.number in scored}
    letters = {each.held_out[SINGLE].parent for each in scored.values() if SINGLE in each.held_out}
    over = next((number for number, each in scored.items() if each.origin.parent in letters), None)
    people = tuple(dict.fromkeys(vote.person for vote in votes))
    rows = _compared(votes, (), trials, {}, {}, over)
    return PreferredTrials(rows=tuple(rows), votes=len(votes), ratings=0, people=people)


def load_preferred_trials(records: StudyRecords) -> PreferredTrials:
    """Read the votes and ratings of a study's search, and work out what they say."""
    votes, ratings = load_votes(records), load_ratings(records)
    trials = {trial.number: trial for trial in load_trials(records) if trial.is_whole}
    means = {number: mean for number, mean in mean_ratings(ratings).items() if number in trials}
    points = points_of(records, tuple(trials.values()))
    compared = _compared(votes, tuple(rated_pairs(ratings)), trials, points, means)
    there = {row.number for row in compared}
    rated = (
        PreferredTrial(number=number, name=trials[number].name, votes=0, lead=None, over=None, tally=None, rating=mean)
        for number, mean in means.items()
        if number not in there
    )
    people = dict.fromkeys([vote.person for vote in votes] + [rating.person for rating in ratings])
    return PreferredTrials(rows=(*compared, *rated), votes=len(votes), ratings=len(ratings), people=tuple(people))


def _compared(
    votes: Sequence[Vote],
    rated: Sequence[Vote],
    trials: Mapping[int, StoredTrial],
    points: Mapping[int, Floats],
    means: Mapping[int, MeanRating],
    over: int | None = None,
) -> list[PreferredTrial]:
    """Return the trials that were compared with others, the most preferred first.

    Args:
        rated: what ratings say, as votes.
        points: number -> the trial's ratios, scaled to 0..1 by their bounds [d].
        means: number -> the mean of its ratings.
        over: number of the parent that leads are over; None: the most preferred.
    """
    counts = Counter(number for vote in votes for number in (vote.left, vote.right))
    numbers = counts.keys() | {number for vote in rated for number in (vote.left, vote.right)}
    compared = [trial for trial in trials.values() if trial.number in numbers]
    if not compared:
        return []
    preference = fit((*votes, *rated), tuple(trial.number for trial in compared), points)
    ranked = preference.ranked
    preferred = next((number for number in ranked if trials[number].origin.parent is not None), None)
    parent = over if over in ranked else preferred
    return [
        PreferredTrial(
            number=number,
            name=trials[number].name,
            votes=counts[number],
            lead=None if parent is None or number == parent else preference.lead(number, parent),
            over=None if parent is None or number == parent else trials[parent].name,
            tally=None if parent is None or number == parent else tally(votes, number, parent),
            rating=means.get(number),
        )
        for number in ranked
    ]
