"""A study together with the opened database that holds it: the first argument of what reads or changes a study."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from studies.errors import StudyMissingError
from studies.records import tables
from studies.records.database import Database
from studies.records.values import StoredStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecords:
    """The records of one study: its trials, renders, scores, batch limits and final."""

    database: Database
    study: StoredStudy  # as it was when it was read


def lock_study(connection: Connection, study: StoredStudy) -> str:
    """Let nobody else replace what follows from this study's votes or its final, until the transaction ends.

    It writes, because SQLite takes its lock with the first write: what is read afterwards holds until the end.

    Returns:
        The study's name by now.

    Raises:
        StudyMissingError: it was deleted meanwhile.
    """
    studies = tables.studies
    this = sa.and_(studies.c.id == study.id, studies.c.key == study.key)  # SQLite gives the last study's id away again
    connection.execute(studies.update().where(this).values(id=studies.c.id))
    name = connection.execute(sa.select(studies.c.name).where(this)).scalar()
    if name is None:
        raise StudyMissingError(f"study {study.name!r} was deleted meanwhile")
    return str(name)
