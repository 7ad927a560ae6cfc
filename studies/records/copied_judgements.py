"""The votes and ratings of a study as those of its clone, whose trials have the same renders under other numbers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from studies.records import tables
from studies.records.study_records import StudyRecords

# Table -> its columns that name a trial.
PLACES: Final[Mapping[sa.Table, tuple[str, ...]]] = {
    tables.votes: ("left_number", "right_number"),
    tables.ratings: ("number",),
}
# Table -> the column of the answer; None there: not given yet, or taken back.
ANSWERS: Final[Mapping[sa.Table, sa.Column[Any]]] = {
    tables.votes: tables.votes.c.verdict,
    tables.ratings: tables.ratings.c.rating,
}


def copy_judgements(source: StudyRecords, clone: StudyRecords, numbers: Mapping[int, int]) -> None:
    """Copy what people answered about the trials that the clone has, in one transaction.

    Args:
        numbers: number of a trial of `source` -> its number in `clone`.
    """
    copied = {
        table: [each for each in map(dict, _rows(source, table)) if all(each[name] in numbers for name in places)]
        for table, places in PLACES.items()
    }
    with clone.database.write() as connection:
        for table, rows in copied.items():
            own = {"study_id": clone.study.id}
            values = [
                row | own | {"token": secrets.token_hex(16)} | {name: numbers[row[name]] for name in PLACES[table]}
                for row in rows
            ]
            if values:
                connection.execute(table.insert(), values)


def _rows(source: StudyRecords, table: sa.Table) -> list[sa.RowMapping]:
    """Read the answered questions of a study."""
    query = sa.select(table).where(table.c.study_id == source.study.id, ANSWERS[table].is_not(None))
    with source.database.engine.connect() as connection:
        return list(connection.execute(query).mappings())
