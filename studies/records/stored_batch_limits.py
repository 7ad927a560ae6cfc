"""The batch limits that the workers of a study found for each kind of device."""

from __future__ import annotations

import sqlalchemy as sa

from studies.records.batch_limits import BatchLimit
from studies.records.study_records import StudyRecords
from studies.records.tables import batch_limits


def load_batch_limits(records: StudyRecords, device: str) -> tuple[BatchLimit, ...]:
    """Return what is known for a kind of device."""
    query = sa.select(batch_limits).where(batch_limits.c.study_id == records.study.id, batch_limits.c.device == device)
    with records.database.engine.connect() as connection:
        rows = connection.execute(query).all()
    found = (BatchLimit(component=row.component, size=(row.width, row.height), images=row.images) for row in rows)
    return tuple(sorted(found))


def store_batch_limit(records: StudyRecords, device: str, limit: BatchLimit) -> None:
    """Store a limit in place of a higher one. A lower one, which another worker has found, stays."""
    width, height = limit.size
    key = {
        "study_id": records.study.id,
        "device": device,
        "component": limit.component,
        "width": width,
        "height": height,
    }
    same = sa.and_(*(batch_limits.c[name] == value for name, value in key.items()))
    with records.database.exclusive(), records.database.write() as connection:
        known = connection.execute(sa.select(batch_limits.c.images).where(same)).scalar()
        if known is None:
            connection.execute(batch_limits.insert().values(**key, images=limit.images))
        else:
            connection.execute(batch_limits.update().where(same).values(images=min(known, limit.images)))
