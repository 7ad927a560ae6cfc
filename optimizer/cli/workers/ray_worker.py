"""A worker as a Ray actor: Ray chooses its GPU, and restarts it if its process or machine dies."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basics.errors import MergetuneError
from basics.messages import counted
from optimizer.cli.workers.assignment import Assignment
from optimizer.cli.workers.monitoring import UNMONITORED
from optimizer.system.cut_off_files import report_cut_off_files

if TYPE_CHECKING:
    from optimizer.work.worker import Worker
    from studies.records.database import Database

DIED = 1  # exit code after which Ray restarts the actor


@dataclass(frozen=True, kw_only=True)
class State:
    """What an actor reports about itself."""

    host: str
    pid: int
    gpus: str  # CUDA's numbers; empty on a CPU
    doing: str  # a study's name, or what it waits for
    ended: str | None  # why it has ended; None while it works


class RayWorker:
    """The actor. It works in a thread, so that it can answer and be asked to stop at any time."""

    def __init__(self, assignment: Assignment) -> None:
        report_cut_off_files(DIED)
        self._assignment = assignment
        self._stop = threading.Event()
        self._ended: str | None = None
        self._worker: Worker | None = None
        self._waits_for = "connecting to the database"
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def state(self) -> State:
        """Return what this worker is doing."""
        return State(
            host=socket.gethostname(),
            pid=os.getpid(),
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            doing=self._waits_for if self._worker is None else self._worker.doing,
            ended=self._ended,
        )

    def leave(self) -> None:
        """Ask the worker to finish its trial and stop."""
        self._stop.set()

    def _opened(self) -> Database:
        """Open the database as soon as it can be reached: Ray starts an actor again while it may still be away.

        Raises:
            DatabaseError: it cannot be used, or the worker is to leave while it is away.
        """
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_when_event_set, wait_fixed

        from optimizer.system.retry import LONGEST_PAUSE_SECONDS
        from studies.errors import DatabaseAwayError, DatabaseReadOnlyError
        from studies.records.database import open_database

        def is_outage(error: BaseException) -> bool:
            self._waits_for = str(error)
            return isinstance(error, DatabaseAwayError | DatabaseReadOnlyError)

        return Retrying(
            retry=retry_if_exception(is_outage),
            wait=wait_fixed(LONGEST_PAUSE_SECONDS),
            sleep=sleep_using_event(self._stop),
            stop=stop_when_event_set(self._stop),
            reraise=True,
        )(lambda: open_database(self._assignment.storage, create=False))

    def _work(self) -> None:
        from optimizer.cli.common import quiet_optuna
        from optimizer.errors import DatabaseLostError

        quiet_optuna()
        try:
            database = self._opened()
            self._worker = self._assignment.worker(database, self._stop, UNMONITORED)
            finished = self._worker.run()
            self._ended = f"stopped after {counted(finished, 'trial')}"
        except DatabaseLostError:
            os._exit(DIED)  # Ray restarts it, and it tries the database again
        except MergetuneError as error:
            self._ended = " ".join(str(error).split())  # a restart would not help
        except BaseException:  # noqa: BLE001 - a thread that ends silently would seem to work on
            import traceback

            traceback.print_exc()  # into Ray's log of this actor
            os._exit(DIED)
