"""How many images devices of a kind could render at once, as the workers of a study have found out."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from studies.records.database import Database
from studies.records.tables import batch_limits
from studies.records.values import StoredStudy


def load_batch_limits(database: Database, study: StoredStudy, device: str) -> Mapping[tuple[int, int], int]:
    """(width, height) -> images at once, for a kind of device; sizes without a limit are not there."""
    query = sa.select(batch_limits).where(batch_limits.c.study_id == study.id, batch_limits.c.device == device)
    with database.engine.connect() as connection:
        return {(row.width, row.height): row.images for row in connection.execute(query)}


def store_batch_limit(database: Database, study: StoredStudy, device: str, size: tuple[int, int], images: int) -> None:
    """Replaces a higher limit; a lower one, which another worker has found, stays."""
    width, height = size
    which = {"study_id": study.id, "device": device, "width": width, "height": height}
    same = sa.and_(*(batch_limits.c[name] == value for name, value in which.items()))
    with database.exclusive(), database.write() as connection:
        known = connection.execute(sa.select(batch_limits.c.images).where(same)).scalar()
        if known is None:
            connection.execute(batch_limits.insert().values(**which, images=images))
        else:
            connection.execute(batch_limits.update().where(same).values(images=min(known, images)))
