"""Which workers there are, which of them live, and what each is at."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import sqlalchemy as sa

from studies.records import tables
from studies.records.database import Database, clock
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy
from studies.system.database_url import database_file
from studies.system.processes import is_running, process_identity, shares_processes

STALE_SECONDS = 180.0  # a worker on another machine that gave no sign of life for so long is taken for dead

Task = Literal["trials", "final"]


def register_worker(database: Database) -> str:
    """A new worker of this process; returns its id."""
    worker_id = uuid.uuid4().hex
    with database.write() as connection:
        _insert(connection, worker_id)
    return worker_id


def _insert(connection: sa.Connection, worker_id: str) -> None:
    pid = os.getpid()
    who = {"id": worker_id, "host": socket.gethostname(), "pid": pid, "process": process_identity(pid)}
    connection.execute(tables.workers.insert().values(**who, seen_at=clock(connection)))


def sign_of_life(database: Database, worker_id: str) -> None:
    """Of this process's worker; one whose entry somebody has removed, taking it for dead, is registered again."""
    mine = tables.workers.c.id == worker_id
    with database.write() as connection:
        found = connection.execute(tables.workers.update().where(mine).values(seen_at=clock(connection)))
        if found.rowcount == 0:
            _insert(connection, worker_id)


def remove_worker(database: Database, worker_id: str) -> None:
    with database.write() as connection:
        connection.execute(tables.workers.delete().where(tables.workers.c.id == worker_id))


def is_registered(database: Database, worker_id: str) -> bool:
    """Whether a worker has not left: it is alive, or it died."""
    with database.engine.connect() as connection:
        query = sa.select(tables.workers.c.id).where(tables.workers.c.id == worker_id)
        return connection.execute(query).first() is not None


def live_workers(database: Database, stale_seconds: float = STALE_SECONDS) -> frozenset[str]:
    """Workers not known to be dead: on this machine their process must exist, elsewhere they must have been seen.

    One that was seen in the future was seen before the clock was set back: that tells as little as the past.
    """
    with database.engine.connect() as connection:
        rows, time = connection.execute(sa.select(tables.workers)).all(), clock(connection)
    local = database_file(database.url) is not None
    return frozenset(
        row.id
        for row in rows
        if (is_running(row.pid, row.process) if _is_here(row, local) else abs(time - row.seen_at) < stale_seconds)
    )


def _is_here(row: sa.Row[Any], local: bool) -> bool:
    """Whether a worker is, or was, a process that this one can see.

    Machines and containers may share a name. A file is on one machine, which may have been started anew since.
    """
    if row.host != socket.gethostname():
        return False
    return local or row.process is None or shares_processes(row.process)


def turn_to(database: Database, worker_id: str, study: StoredStudy | None, task: Task | None = None) -> None:
    """Note what a worker is at; None for nothing."""
    values = {"study_id": None if study is None else study.id, "task": task}
    with database.write() as connection:
        connection.execute(tables.workers.update().where(tables.workers.c.id == worker_id).values(**values))


def claim_final(records: StudyRecords, worker_id: str, alive: Collection[str]) -> bool:
    """Note that a worker holds a study's final; False where another one does.

    Args:
        alive: workers that are not known to be dead; the claim of a dead one does not count.
    """
    database, study, workers = records.database, records.study, tables.workers.c
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


def finals_held(database: Database, alive: Collection[str]) -> frozenset[int]:
    """Ids of the studies whose final one of these workers holds."""
    with database.engine.connect() as connection:
        query = sa.select(tables.workers.c.id, tables.workers.c.study_id).where(tables.workers.c.task == "final")
        return frozenset(row.study_id for row in connection.execute(query) if row.id in alive)


def workers_at(database: Database, alive: Collection[str]) -> Counter[int]:
    """Study id -> how many of these workers are at it."""
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.workers.c.id, tables.workers.c.study_id)).all()
    return Counter(row.study_id for row in rows if row.study_id is not None and row.id in alive)
