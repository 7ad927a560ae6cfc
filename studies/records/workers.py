"""Which workers there are, which of them are alive, and what each works on."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Literal

import sqlalchemy as sa

from studies.records import tables
from studies.records.database import Database, clock
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy
from studies.system.database_url import database_file
from studies.system.processes import is_running, process_identity, shares_processes

STALE_SECONDS = 180.0  # after so long without a sign of life, a worker on another machine counts as dead

Task = Literal["trials", "final"]


def register_worker(database: Database) -> str:
    """Register a new worker of this process, and return its id."""
    worker_id = uuid.uuid4().hex
    with database.write() as connection:
        _insert(connection, worker_id)
    return worker_id


def _insert(connection: sa.Connection, worker_id: str) -> None:
    pid = os.getpid()
    who = {"id": worker_id, "host": socket.gethostname(), "pid": pid, "process": process_identity(pid)}
    connection.execute(tables.workers.insert().values(**who, seen_at=clock(connection)))


def sign_of_life(database: Database, worker_id: str) -> None:
    """Give a sign of life of this process's worker. One that was taken for dead and removed is registered again."""
    this_worker = tables.workers.c.id == worker_id
    with database.write() as connection:
        found = connection.execute(tables.workers.update().where(this_worker).values(seen_at=clock(connection)))
        if found.rowcount == 0:
            _insert(connection, worker_id)


def remove_worker(database: Database, worker_id: str) -> None:
    """Remove a worker that leaves, or that is dead."""
    with database.write() as connection:
        connection.execute(tables.workers.delete().where(tables.workers.c.id == worker_id))


def remove_dead_worker(database: Database, worker_id: str, seen_at: float) -> None:
    """Remove a worker that was taken for dead, unless it has given a sign of life since or holds a trial.

    Args:
        seen_at: its last sign of life when it was taken for dead.
    """
    workers, trials = tables.workers.c, tables.trials.c
    holds = sa.exists().where(trials.worker_id == worker_id, trials.state == "running")
    with database.write() as connection:
        connection.execute(
            tables.workers.delete().where(workers.id == worker_id, workers.seen_at == seen_at, sa.not_(holds))
        )


def dead_workers(
    database: Database, alive: Callable[[], Collection[str]], study: StoredStudy | None = None
) -> dict[str, float]:
    """Return the dead workers that hold no trial: nothing depends on their entries any more.

    The entry of one that holds a trial says that it did not give the trial back.

    Args:
        alive: returns the workers that are not known to be dead. It is asked last: one that registers meanwhile lives.
        study: leaves out those that were at another study.

    Returns:
        id -> its last sign of life.
    """
    workers = tables.workers.c
    query = sa.select(workers.id, workers.seen_at)
    if study is not None:
        query = query.where(sa.or_(workers.study_id == study.id, workers.study_id.is_(None)))
    holders = sa.select(tables.trials.c.worker_id).where(tables.trials.c.state == "running")
    with database.engine.connect() as connection:
        found = connection.execute(query).all()
        holding = set(connection.execute(holders).scalars())
    living = set(alive())
    return {worker_id: seen_at for worker_id, seen_at in found if worker_id not in holding | living}


def is_registered(database: Database, worker_id: str) -> bool:
    """Return whether a worker has not left: it is alive, or it died."""
    with database.engine.connect() as connection:
        query = sa.select(tables.workers.c.id).where(tables.workers.c.id == worker_id)
        return connection.execute(query).first() is not None


def live_workers(database: Database, stale_seconds: float = STALE_SECONDS) -> frozenset[str]:
    """Return the ids of the workers not known to be dead.

    On this machine their process must exist; elsewhere they must have given a sign of life lately. One in the future
    was given before the clock was set back, which says as little as one long ago.

    Args:
        stale_seconds: after so long without a sign of life, a worker of another machine counts as dead.
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
    """Return whether a worker is, or was, a process that this one can see.

    Machines and containers may share a name. A database file is on one machine, which may have been restarted since.

    Args:
        local: whether the database is a file.
    """
    if row.host != socket.gethostname():
        return False
    return local or row.process is None or shares_processes(row.process)


def turn_to(database: Database, worker_id: str, study: StoredStudy | None, task: Task | None = None) -> bool:
    """Store what a worker works on, None for nothing; False where it has no entry, as one that was taken for dead."""
    values = {"study_id": None if study is None else study.id, "task": task}
    with database.write() as connection:
        update = tables.workers.update().where(tables.workers.c.id == worker_id).values(**values)
        return connection.execute(update).rowcount == 1


def claim_final(records: StudyRecords, worker_id: str, alive: Collection[str]) -> bool:
    """Store that a worker holds a study's final; False, and nothing is stored, where another does or it has no entry.

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
        return turn_to(database, worker_id, study, "final")


def give_back(database: Database, worker_id: str, *, counts: bool = False) -> None:
    """Give back the trial of a worker that lives on, so that anyone may take it. This counts as no death.

    Args:
        counts: whether it counts as an attempt all the same: the trial may be what the worker failed at.
    """
    trials = tables.trials.c
    held = sa.and_(trials.worker_id == worker_id, trials.state == "running")
    with database.write() as connection:
        values = {"worker_id": "", "attempt": trials.attempt + int(counts)}
        connection.execute(tables.trials.update().where(held).values(**values))


def finals_held(database: Database, alive: Collection[str]) -> frozenset[int]:
    """Return the ids of the studies whose final one of these workers holds."""
    with database.engine.connect() as connection:
        query = sa.select(tables.workers.c.id, tables.workers.c.study_id).where(tables.workers.c.task == "final")
        return frozenset(row.study_id for row in connection.execute(query) if row.id in alive)


def workers_at(database: Database, alive: Collection[str]) -> Counter[int]:
    """Return study id -> how many of these workers work on it."""
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.workers.c.id, tables.workers.c.study_id)).all()
    return Counter(row.study_id for row in rows if row.study_id is not None and row.id in alive)
