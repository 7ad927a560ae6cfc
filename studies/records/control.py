"""What people ask of the workers of a study: to go on, wait or leave, and which study comes first."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from studies.records import tables
from studies.records.database import Database
from studies.records.study_records import StudyRecords
from studies.records.values import Status


def set_status(records: StudyRecords, status: Status) -> None:
    """Ask the workers of a study to take trials (`active`), to wait (`paused`), or to leave (`stopped`).

    The trial in progress is finished in any case.
    """
    _update(records, status=status)


def status_of(records: StudyRecords) -> Status:
    """Return the status as it is now; `stopped` for a study that was deleted."""
    query = sa.select(tables.studies.c.status).where(tables.studies.c.id == records.study.id)
    with records.database.engine.connect() as connection:
        found = connection.execute(query).scalar()
    return "stopped" if found is None else found


def set_priority(records: StudyRecords, priority: int) -> None:
    """Set a study's priority. Workers of several studies work on the highest first; a study begins with 0."""
    _update(records, priority=priority)


def _update(records: StudyRecords, **values: object) -> None:
    with records.database.write() as connection:
        connection.execute(tables.studies.update().where(tables.studies.c.id == records.study.id).values(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyControl:
    """What people want of a study."""

    study_id: int
    name: str
    status: Status
    priority: int


def study_controls(database: Database) -> list[StudyControl]:
    """Return what people want of every study, by id; an unreadable spec hides no other study, as none is read."""
    columns = tables.studies.c
    query = sa.select(columns.id, columns.name, columns.status, columns.priority).order_by(columns.id)
    with database.engine.connect() as connection:
        return [
            StudyControl(study_id=row.id, name=row.name, status=row.status, priority=row.priority)
            for row in connection.execute(query)
        ]
