"""Ratings: how good a person finds a render, 0 to 10, without knowing which trial it is of.

As with votes, a render gets its row when it is shown, and a rating that is sent twice counts once.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from studies.records import tables
from studies.records.database import now
from studies.records.study_records import StudyRecords
from studies.records.votes import FORGOTTEN_SECONDS

WORST_RATING: Final = 0
BEST_RATING: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A render that was shown, and what the person gave it."""

    token: str
    person: str
    item: int  # index in the suite
    number: int  # of the trial
    rating: int | None  # None: not given yet, or taken back
    shown_at: float
    rated_at: float | None


def show_render(records: StudyRecords, person: str, item: int, number: int) -> Rating:
    """Store that a render is shown to a person, and return it."""
    shown = Rating(
        token=secrets.token_hex(16),
        person=person,
        item=item,
        number=number,
        rating=None,
        shown_at=now(),
        rated_at=None,
    )
    row = {"token": shown.token, "person": person, "item": item, "number": number, "shown_at": shown.shown_at}
    with records.database.write() as connection:
        connection.execute(tables.ratings.insert().values(study_id=records.study.id, **row))
    return shown


def store_rating(records: StudyRecords, token: str, rating: int) -> bool:
    """Store what a person gives a render; False where it is gone with its study. The last word counts.

    Args:
        rating: WORST_RATING to BEST_RATING.
    """
    with records.database.write() as connection:
        stored = connection.execute(
            tables.ratings.update().where(_is_shown(records, token)).values(rating=rating, rated_at=now())
        )
        return stored.rowcount > 0


def take_rating_back(records: StudyRecords, person: str) -> Rating | None:
    """Take back the last rating of a person, and return its render; None where there is none."""
    with records.database.write() as connection:
        row = connection.execute(
            sa.select(tables.ratings)
            .where(_of(records), tables.ratings.c.person == person, tables.ratings.c.rating.is_not(None))
            .order_by(tables.ratings.c.rated_at.desc(), tables.ratings.c.token)
            .limit(1)
        ).first()
        if row is None:
            return None
        connection.execute(
            tables.ratings.update().where(tables.ratings.c.token == row.token).values(rating=None, rated_at=None)
        )
    return _rating(row)


def load_shown_render(records: StudyRecords, token: str) -> Rating | None:
    """Read a render that was shown; None where there is no such one."""
    with records.database.engine.connect() as connection:
        row = connection.execute(sa.select(tables.ratings).where(_is_shown(records, token))).first()
    return None if row is None else _rating(row)


def load_ratings(records: StudyRecords) -> list[Rating]:
    """Read the ratings of a study, in the order in which they were given; renders without one are left out."""
    query = (
        sa.select(tables.ratings)
        .where(_of(records), tables.ratings.c.rating.is_not(None))
        .order_by(tables.ratings.c.rated_at, tables.ratings.c.token)
    )
    with records.database.engine.connect() as connection:
        return [_rating(row) for row in connection.execute(query)]


def forget_unrated(records: StudyRecords) -> None:
    """Remove renders that were shown long ago, and never rated."""
    with records.database.write() as connection:
        connection.execute(
            tables.ratings.delete().where(
                _of(records),
                tables.ratings.c.rating.is_(None),
                tables.ratings.c.shown_at < now() - FORGOTTEN_SECONDS,
            )
        )


def _of(records: StudyRecords) -> sa.ColumnElement[bool]:
    return tables.ratings.c.study_id == records.study.id


def _is_shown(records: StudyRecords, token: str) -> sa.ColumnElement[bool]:
    return sa.and_(_of(records), tables.ratings.c.token == token)


def _rating(row: Row[tuple[object, ...]]) -> Rating:
    return Rating(
        token=row.token,
        person=row.person,
        item=row.item,
        number=row.number,
        rating=row.rating,
        shown_at=row.shown_at,
        rated_at=row.rated_at,
    )
