"""Trials in the database: started by one worker, and finished by it alone, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from studies.recipe.recipe import Recipe
from studies.records import tables
from studies.records.batch_limits import limits_from_json, limits_to_json
from studies.records.database import now
from studies.records.failures import Failure
from studies.records.origins import Origin
from studies.records.stored_json import explained_row, mapping
from studies.records.stored_renders import insert_renders
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial, TrialResult


def start_trial(
    records: StudyRecords,
    number: int,
    origin: Origin,
    recipe: Recipe,
    worker_id: str,
    attempt: int = 1,
) -> bool:
    """Store who works on a trial, and on what, in place of what an interrupted worker left.

    From now on only this worker can store the trial's outcome. False, and nothing is changed, where it has one.

    Args:
        attempt: 1, and one more for each worker that died over it.
    """
    this_trial = _is_numbered(records, number)
    with records.database.write() as connection:
        connection.execute(tables.trials.delete().where(this_trial, tables.trials.c.state == "running"))
        if connection.execute(sa.select(tables.trials.c.id).where(this_trial)).first() is not None:
            return False
        connection.execute(
            tables.trials.insert().values(
                study_id=records.study.id,
                number=number,
                origin=str(origin),
                recipe=recipe.to_json(),
                recipe_digest=recipe.digest,
                worker_id=worker_id,
                attempt=attempt,
                state="running",
                rendered=0,
                started_at=now(),
            )
        )
        return True


def finish_trial(records: StudyRecords, number: int, worker_id: str, result: TrialResult) -> bool:
    """Store a result whole; False, and nothing is stored, where another worker has taken over the trial.

    True as well where this worker has stored it already: it cannot know, if the connection broke at that moment.
    """
    with records.database.write() as connection:
        trial_id = _trial_id(connection, records, number)
        stored = connection.execute(
            tables.trials.update()
            .where(_is_held(trial_id, worker_id))
            .values(**columns_of_result(result), incumbent=result.incumbent, finished_at=now())
        )
        if stored.rowcount == 0:
            return _was_stored_by(connection, trial_id, worker_id)
        insert_renders(connection, trial_id, result)
        return True


def columns_of_result(result: TrialResult) -> dict[str, Any]:
    """Return what a result fills of its trial's row, in whatever way it came about: column name -> value."""
    return {
        "state": "complete",
        "objectives": dict(result.objectives),
        "seconds": dict(result.seconds),
        "machine": dict(result.machine),
        "batch_limits": limits_to_json(result.batch_limits),
        "sheet": result.contact_sheet,
        "rendered": len(result.pixels_sha256),
    }


def fail_trial(
    records: StudyRecords,
    number: int,
    worker_id: str,
    failure: Failure,
    rendered: int = 0,
    seconds: Mapping[str, float] | None = None,
) -> bool:
    """Store why a trial failed, and how many images and seconds it cost. Returns what `finish_trial` returns."""
    with records.database.write() as connection:
        trial_id = _trial_id(connection, records, number)
        stored = connection.execute(
            tables.trials.update()
            .where(_is_held(trial_id, worker_id))
            .values(
                state="failed",
                reason=failure.reason,
                failure=failure.kind,
                rendered=rendered,
                seconds=dict(seconds or {}),
                finished_at=now(),
            )
        )
        return bool(stored.rowcount) or _was_stored_by(connection, trial_id, worker_id)


def _is_numbered(records: StudyRecords, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(tables.trials.c.study_id == records.study.id, tables.trials.c.number == number)


def _is_held(trial_id: int, worker_id: str) -> sa.ColumnElement[bool]:
    """Return the condition that a trial runs, and that this worker holds it."""
    return sa.and_(
        tables.trials.c.id == trial_id, tables.trials.c.state == "running", tables.trials.c.worker_id == worker_id
    )


def _was_stored_by(connection: Connection, trial_id: int, worker_id: str) -> bool:
    row = connection.execute(sa.select(tables.trials).where(tables.trials.c.id == trial_id)).one()
    return bool(row.worker_id == worker_id and row.state != "running")


def _trial_id(connection: Connection, records: StudyRecords, number: int) -> int:
    query = sa.select(tables.trials.c.id).where(_is_numbered(records, number))
    return int(connection.execute(query).scalar_one())


def store_gains(
    records: StudyRecords, trial: StoredTrial, gains: Mapping[str, Gain], errors: Mapping[str, float] | None = None
) -> None:
    """Store a trial's gains over the parents, and the standard errors of its own scores."""
    values = {name: gain.stored for name, gain in gains.items()}
    with records.database.write() as connection:
        connection.execute(
            tables.trials.update().where(tables.trials.c.id == trial.id).values(gains=values, errors=dict(errors or {}))
        )


def load_trials(records: StudyRecords, *which: sa.ColumnElement[bool]) -> list[StoredTrial]:
    """Read the trials that were started, by number.

    Args:
        which: conditions that all have to hold; without any, every trial is read.
    """
    query = sa.select(tables.trials).where(tables.trials.c.study_id == records.study.id, *which)
    with records.database.engine.connect() as connection:
        return [_trial(row) for row in connection.execute(query.order_by(tables.trials.c.number))]


def load_trial(records: StudyRecords, number: int) -> StoredTrial | None:
    """Read one trial; None where there is none of this number."""
    query = sa.select(tables.trials).where(_is_numbered(records, number))
    with records.database.engine.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else _trial(row)


def _trial(row: Row[Any]) -> StoredTrial:
    """Return a row's trial.

    Raises:
        DatabaseError: the row is malformed.
    """
    with explained_row(f"trial {row.number}"):
        return _well_formed(row)


def _well_formed(row: Row[Any]) -> StoredTrial:
    gains = {name: Gain.read(stored) for name, stored in mapping(row.gains).items()}
    return StoredTrial(
        id=row.id,
        number=row.number,
        origin=Origin.parse(row.origin),
        recipe_text=row.recipe,
        worker_id=row.worker_id,
        attempt=row.attempt,
        state=row.state,
        reason=row.reason,
        failure=row.failure,
        objectives=mapping(row.objectives),
        gains=gains,
        errors=mapping(row.errors),
        seconds=mapping(row.seconds),
        machine=mapping(row.machine),
        batch_limits=limits_from_json(row.batch_limits),
        contact_sheet=row.sheet,
        started_at=row.started_at,
        finished_at=row.finished_at,
        rendered=row.rendered,
        incumbent=row.incumbent,
        source=row.source,
    )
