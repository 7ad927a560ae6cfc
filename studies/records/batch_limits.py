"""How many images devices of a kind could render at once, as the workers of a study have found out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import sqlalchemy as sa

from studies.records.study_records import StudyRecords
from studies.records.tables import batch_limits

Batched = Literal["unet", "vae"]
"""A component through which a suite's images go in batches."""

Size = tuple[int, int]
"""Width and height in pixels."""


def load_batch_limits(records: StudyRecords, device: str) -> Mapping[tuple[Batched, Size], int]:
    """(component, size) -> images at once, for a kind of device; what has no limit is not there."""
    query = sa.select(batch_limits).where(batch_limits.c.study_id == records.study.id, batch_limits.c.device == device)
    with records.database.engine.connect() as connection:
        return {(row.component, (row.width, row.height)): row.images for row in connection.execute(query)}


def store_batch_limit(records: StudyRecords, device: str, component: Batched, size: Size, images: int) -> None:
    """Replaces a higher limit; a lower one, which another worker has found, stays."""
    width, height = size
    which = {"study_id": records.study.id, "device": device, "component": component, "width": width, "height": height}
    same = sa.and_(*(batch_limits.c[name] == value for name, value in which.items()))
    with records.database.exclusive(), records.database.write() as connection:
        known = connection.execute(sa.select(batch_limits.c.images).where(same)).scalar()
        if known is None:
            connection.execute(batch_limits.insert().values(**which, images=images))
        else:
            connection.execute(batch_limits.update().where(same).values(images=min(known, images)))
