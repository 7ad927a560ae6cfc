"""A study together with the opened database that holds it: the first argument of what reads or changes a study."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from studies.records import tables
from studies.records.database import Database
from studies.records.values import StoredStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecords:
    """The records of one study: its trials, renders, scores, batch limits and final."""

    database: Database
    study: StoredStudy  # as it was when it was read


def lock_study(connection: Connection, study: StoredStudy) -> None:
    """Let nobody else replace what follows from this study's votes or its final, until the transaction ends.

    A server would let two in at once; SQLite lets one write at a time anyway.
    """
    connection.execute(sa.select(tables.studies.c.id).where(tables.studies.c.id == study.id).with_for_update())
