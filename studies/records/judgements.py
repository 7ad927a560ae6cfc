"""What people said of renders of a study's search, as comparisons of two: their votes, and what their ratings say.

Of two renders of one item that a person rated one after the other, the one with more is preferred. Each rating is
compared with the one before it only, so many ratings do not outweigh votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studies.records.ratings import Rating, load_ratings
from studies.records.study_records import StudyRecords
from studies.records.votes import Verdict, Vote, load_votes


def load_judgements(records: StudyRecords) -> list[Vote]:
    """Read the votes on renders of the search, then what ratings say, as votes."""
    return [*load_votes(records), *rated_pairs(load_ratings(records))]


def judged_trials(records: StudyRecords) -> set[int]:
    """Return the numbers of the trials that people have compared in the search."""
    return {number for vote in load_judgements(records) for number in (vote.left, vote.right)}


def rated_pairs(ratings: Sequence[Rating]) -> Iterator[Vote]:
    """Yield ratings as votes: one between each and the one before it of the same person and item, on other trials.

    Args:
        ratings: in the order in which they were given.
    """
    before: dict[tuple[str, int], Rating] = {}
    for rating in ratings:
        former = before.get((rating.person, rating.item))
        before[rating.person, rating.item] = rating
        if former is None or former.number == rating.number:
            continue
        verdict = _verdict(former, rating)
        if verdict is None:
            continue
        yield Vote(
            token=rating.token,
            person=rating.person,
            item=rating.item,
            held_out=False,
            left=former.number,
            right=rating.number,
            verdict=verdict,
            shown_at=rating.shown_at,
            voted_at=rating.rated_at,
        )


def _verdict(former: Rating, rating: Rating) -> Verdict | None:
    """Return which of two rated renders is preferred; None where one has no rating."""
    if former.rating is None or rating.rating is None:
        return None
    if former.rating == rating.rating:
        return "equal"
    return "left" if former.rating > rating.rating else "right"
