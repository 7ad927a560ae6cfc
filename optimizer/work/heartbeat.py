"""A worker's heartbeat: known to the database as alive from before its first trial until after its last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from basics.errors import MergetuneError
from optimizer.system.retry import OUTAGES, Retry
from studies.errors import DatabaseError
from studies.records import registry
from studies.records.database import Database

HEARTBEAT_SECONDS = 20.0
RERUNS = 3  # of a trial whose worker died


class Heartbeat:
    """Who this worker is, and who else is there."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self.worker_id = worker_id
        self._database = database
        self._trusted_from = 0.0  # time.monotonic
        self._clocks: tuple[float, float] | None = None  # the database's and the monotonic one, when last looked at

    def alive(self) -> frozenset[str]:
        """Workers not known to be dead.

        While nobody could reach the database nobody could give a sign of life either, and where its clock was set the
        signs that were given tell nothing. So for a while after either silence is no proof, and every worker of another
        machine counts as alive.
        """
        self._look_at_the_clock()
        trusted = time.monotonic() >= self._trusted_from
        return registry.live_workers(self._database, registry.STALE_SECONDS if trusted else float("inf"))

    def beat_until(self, left: threading.Event) -> None:
        """Give signs of life."""
        while not left.wait(HEARTBEAT_SECONDS):
            try:
                registry.sign_of_life(self._database, self.worker_id)
                self._look_at_the_clock()
            except SQLAlchemyError:  # the next beat may get through
                self._distrust()
            except DatabaseError:  # of another version now: the trial in hand will say so
                return

    def _look_at_the_clock(self) -> None:
        """Whether the database's clock has jumped since it was last looked at; this process's sleep looks the same."""
        now = (self._database.clock(), time.monotonic())
        before, self._clocks = self._clocks or now, now
        if abs((now[0] - before[0]) - (now[1] - before[1])) > HEARTBEAT_SECONDS:
            self._distrust()

    def _distrust(self) -> None:
        self._trusted_from = time.monotonic() + 3 * HEARTBEAT_SECONDS


def deaths(attempts: int) -> str:
    """Why a trial is given up."""
    return f"{attempts} workers died while they worked on it: look for what killed them (out of memory?)"


@contextmanager
def registered_worker(database: Database, retry: Retry) -> Iterator[Heartbeat]:
    """Sign on, give signs of life, and sign off.

    Nobody signs off who ends by a bug: the trial in hand may be what it died over, and counts it as a death.
    """
    heartbeat = Heartbeat(database, retry(lambda: registry.register_worker(database)))
    left = threading.Event()
    thread = threading.Thread(target=heartbeat.beat_until, args=(left,), name="heartbeat", daemon=True)
    thread.start()
    peaceful = True
    try:
        yield heartbeat
    except Exception as error:
        peaceful = isinstance(error, MergetuneError)
        raise
    finally:
        left.set()
        thread.join()
        if peaceful:
            with suppress(*OUTAGES, DatabaseError):  # then it counts as one that died, which costs nobody anything
                registry.remove_worker(database, heartbeat.worker_id)
