"""Votes: which of two renders of one item a person prefers, without knowing which trials they are of.

A pair gets its row when it is shown. A vote fills the row in, so that one that is sent twice, from a page that was left
open over a restart or lost its connection, counts once.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Row

from studies.records import tables
from studies.records.database import now
from studies.records.study_records import StudyRecords

Verdict = Literal["left", "right", "equal", "both_bad"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SHARES: Final[Mapping[Verdict, float]] = {"left": 1.0, "right": 0.0, "equal": 0.5, "both_bad": 0.5}  # of the left one
FORGOTTEN_SECONDS = 30 * 24 * 3600  # after which a pair that nobody voted on is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A pair that was shown, and what the person said of it."""

    token: str
    person: str
    item: int  # index in the suite
    held_out: bool  # whether in the final's suite, else in the search's
    left: int  # number of the trial whose render stood there
    right: int
    verdict: Verdict | None  # None: not given yet, or taken back
    shown_at: float
    voted_at: float | None


def show_pair(records: StudyRecords, person: str, item: int, left: int, right: int, *, held_out: bool = False) -> Vote:
    """Store that a pair is shown to a person, and return it.

    Args:
        item: index in the search's suite, or in the final's where `held_out`.
        left, right: numbers of the trials.
    """
    vote = Vote(
        token=secrets.token_hex(16),
        person=person,
        item=item,
        held_out=held_out,
        left=left,
        right=right,
        verdict=None,
        shown_at=now(),
        voted_at=None,
    )
    with records.database.write() as connection:
        connection.execute(
            tables.votes.insert().values(
                token=vote.token,
                study_id=records.study.id,
                person=person,
                item=item,
                held_out=held_out,
                left_number=left,
                right_number=right,
                shown_at=vote.shown_at,
            )
        )
    return vote


def cast_vote(records: StudyRecords, token: str, verdict: Verdict) -> bool:
    """Store what a person says of a pair; False where there is no such pair, because its study or trial is gone.

    The last word counts: a page that sends an answer again changes nothing.
    """
    votes = tables.votes
    same = votes.c.verdict == verdict
    with records.database.write() as connection:
        stored = connection.execute(
            votes.update()
            .where(_is_pair(records, token))
            .values(verdict=verdict, voted_at=sa.case((same, votes.c.voted_at), else_=now()))
        )
        return stored.rowcount > 0


def take_back(records: StudyRecords, person: str) -> Vote | None:
    """Take back the last vote of a person, and return its pair; None where there is none."""
    with records.database.write() as connection:
        row = connection.execute(
            sa.select(tables.votes)
            .where(*_of(records), tables.votes.c.person == person, tables.votes.c.verdict.is_not(None))
            .order_by(tables.votes.c.voted_at.desc(), tables.votes.c.token)
            .limit(1)
        ).first()
        if row is None:
            return None
        connection.execute(
            tables.votes.update().where(tables.votes.c.token == row.token).values(verdict=None, voted_at=None)
        )
    return _vote(row)


def load_pair(records: StudyRecords, token: str) -> Vote | None:
    """Read a pair that was shown; None where there is no such pair."""
    with records.database.engine.connect() as connection:
        row = connection.execute(sa.select(tables.votes).where(_is_pair(records, token))).first()
    return None if row is None else _vote(row)


def load_votes(records: StudyRecords, *, held_out: bool = False) -> list[Vote]:
    """Read the votes of a study, in the order in which they were given; pairs without an answer are left out.

    Args:
        held_out: whether those on renders of the final, or those on renders of the search.
    """
    query = (
        sa.select(tables.votes)
        .where(*_of(records), tables.votes.c.held_out == held_out, tables.votes.c.verdict.is_not(None))
        .order_by(tables.votes.c.voted_at, tables.votes.c.token)
    )
    with records.database.engine.connect() as connection:
        return [_vote(row) for row in connection.execute(query)]


def forget_unanswered(records: StudyRecords) -> None:
    """Remove pairs that were shown long ago, and never voted on."""
    with records.database.write() as connection:
        connection.execute(
            tables.votes.delete().where(
                *_of(records),
                tables.votes.c.verdict.is_(None),
                tables.votes.c.shown_at < now() - FORGOTTEN_SECONDS,
            )
        )


def _of(records: StudyRecords) -> tuple[sa.ColumnElement[bool]]:
    return (tables.votes.c.study_id == records.study.id,)


def _is_pair(records: StudyRecords, token: str) -> sa.ColumnElement[bool]:
    return sa.and_(*_of(records), tables.votes.c.token == token)


def _vote(row: Row[tuple[object, ...]]) -> Vote:
    return Vote(
        token=row.token,
        person=row.person,
        item=row.item,
        held_out=row.held_out,
        left=row.left_number,
        right=row.right_number,
        verdict=row.verdict,
        shown_at=row.shown_at,
        voted_at=row.voted_at,
    )
