"""The heartbeat by which the database knows a worker as alive, from before its first trial until after its last."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from basics.errors import MergetuneError
from optimizer.system.retry import OUTAGES, Retry
from studies.errors import DatabaseError, SchemaChangedError
from studies.records import workers
from studies.records.database import Database
from studies.records.failures import Failure

HEARTBEAT_SECONDS = 20.0
RERUNS = 3  # how often a trial is run again whose worker died


class Heartbeat:
    """The id of this worker, and which other workers are alive."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self.worker_id = worker_id
        self._database = database
        self._trusted_from = 0.0  # time.monotonic
        self._clocks: tuple[float, float] | None = None  # the database's and the monotonic one, when last checked

    def alive(self) -> frozenset[str]:
        """Return the ids of the workers not known to be dead.

        While the database is away no worker can send a heartbeat, and after its clock was set the times of earlier ones
        mean nothing. So for a while after either event, every worker of another machine counts as alive.
        """
        self._check_clock()
        trusted = time.monotonic() >= self._trusted_from
        return workers.live_workers(self._database, workers.STALE_SECONDS if trusted else float("inf"))

    def beat_until(self, left: threading.Event) -> None:
        """Give signs of life until this worker leaves, or another version has changed the tables."""
        while not left.wait(HEARTBEAT_SECONDS):
            try:
                workers.sign_of_life(self._database, self.worker_id)
                self._check_clock()
            except SchemaChangedError:  # for good: nothing that this worker does can be stored any more
                return
            except (SQLAlchemyError, DatabaseError):  # away, or it refuses until somebody grants a right: for now
                self._distrust()

    def _check_clock(self) -> None:
        """Distrust old heartbeats where the database's clock has jumped. A sleep of this process looks the same."""
        now = (self._database.clock(), time.monotonic())
        before, self._clocks = self._clocks or now, now
        if abs((now[0] - before[0]) - (now[1] - before[1])) > HEARTBEAT_SECONDS:
            self._distrust()

    def _distrust(self) -> None:
        self._trusted_from = time.monotonic() + 3 * HEARTBEAT_SECONDS


def deaths(attempts: int) -> Failure:
    """Return why a trial failed over which so many workers died."""
    reason = f"{attempts} workers died while they worked on it: look for what killed them (out of memory?)"
    return Failure(kind="worker_died", reason=reason)


def errors(attempts: int) -> Failure:
    """Return why a trial failed over which workers met an error that nobody expects, so many times."""
    reason = f"{attempts} attempts were ended by an error that is no score's: the workers' output names it"
    return Failure(kind="other", reason=reason)


@contextmanager
def registered_worker(database: Database, retry: Retry) -> Iterator[Heartbeat]:
    """Register a worker, send its heartbeat while the block runs, and remove it at the end.

    A worker that ends by a bug is not removed, so it counts as dead: its trial may be what killed it.
    """
    heartbeat = Heartbeat(database, retry(lambda: workers.register_worker(database)))
    left = threading.Event()
    context = contextvars.copy_context()  # so that its waits end when this thread's do
    thread = threading.Thread(target=context.run, args=(heartbeat.beat_until, left), name="heartbeat", daemon=True)
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
            with suppress(*OUTAGES, DatabaseError):  # then it counts as dead, which does no harm
                workers.remove_worker(database, heartbeat.worker_id)
