"""Which worker is at which study, and what it does there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal

import sqlalchemy as sa

from studies import tables
from studies.database import Database
from studies.results import StoredStudy

Task = Literal["trials", "final"]


def turn_to(database: Database, worker_id: str, study: StoredStudy | None, task: Task | None = None) -> None:
    """Note what a worker is at; None for nothing."""
    values = {"study_id": None if study is None else study.id, "task": task}
    with database.write() as connection:
        connection.execute(tables.workers.update().where(tables.workers.c.id == worker_id).values(**values))


def claim_final(database: Database, worker_id: str, study: StoredStudy, alive: Collection[str]) -> bool:
    """Note that a worker holds a study's final; False where another one does.

    Args:
        alive: workers that are not known to be dead; the claim of a dead one does not count.
    """
    workers = tables.workers.c
    with database.exclusive():
        with database.engine.connect() as connection:
            query = sa.select(workers.id).where(workers.study_id == study.id, workers.task == "final")
            others = set(connection.execute(query).scalars()) - {worker_id}
        if others & set(alive):
            return False
        turn_to(database, worker_id, study, "final")
        return True


def give_back(database: Database, worker_id: str) -> None:
    """A worker that lives on will not finish what it has begun: anyone may take its trial, which counts as no death."""
    rows = tables.trials.c
    mine = sa.and_(rows.worker_id == worker_id, rows.state == "running")
    with database.write() as connection:
        connection.execute(tables.trials.update().where(mine).values(worker_id=""))


def workers_at(database: Database, alive: Collection[str]) -> Counter[int]:
    """Study id -> how many of these workers are at it."""
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.workers.c.id, tables.workers.c.study_id)).all()
    return Counter(row.study_id for row in rows if row.study_id is not None and row.id in alive)
