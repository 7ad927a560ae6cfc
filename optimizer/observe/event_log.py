"""What a worker does as a log for programs: one JSON object a line. docs/service.md has the table of keys."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optimizer.errors import ObservationError
from optimizer.observe.events import Reporter
from studies.records.batch_limits import Batched
from studies.records.finals import Final
from studies.records.values import Gain, StoredTrial

Level = Literal["debug", "info", "warning", "error", "critical"]
Write = Callable[[str], None]

PACKAGES = ("optimizer", "studies", "scorers", "search_spaces")  # whose log records are events too
MODE = 0o666  # of a new file, less the umask


class LineFile:
    """A file that several processes may append lines to, and that may be moved away (as logrotate does) at any time.

    A line is one write, so that lines of several processes do not mix. A file that cannot be written any more, as on a
    full disk, is said once on stderr and costs lines, never a trial.

    Raises:
        ObservationError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._complained, self._torn = path, False, False
        try:
            self._file = self._open()
        except OSError as error:
            raise ObservationError(f"the log {path} cannot be written: {error.strerror}") from error

    def __call__(self, line: str) -> None:
        data = ("\n" * self._torn + line + "\n").encode()  # what was torn ends first
        try:
            if self._was_moved():
                moved, self._file = self._file, self._open()
                os.close(moved)
            self._torn = os.write(self._file, data) < len(data)
        except OSError as error:
            if not self._complained:
                sys.stderr.write(f"the log {self._path} cannot be written ({error.strerror}): the work goes on\n")
            self._complained = True

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _was_moved(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._file))


class EventLog(logging.Handler):
    """Writes events, and the log records of mergetune's modules as events, with what is being worked on.

    Args:
        write: takes a line without its end.
    """

    def __init__(self, write: Write) -> None:
        super().__init__(logging.INFO)
        self._write = write
        self.study: str | None = None
        self.trial: int | None = None
        self.worker: str | None = None

    def tell(self, event: str, level: Level = "info", **more: object) -> None:
        """Write one event.

        Args:
            more: keys of its own; what is None is left out.
        """
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event,
            "study": self.study,
            "trial": self.trial,
            "worker": self.worker,
        }
        line |= {key: _plain(value) for key, value in more.items() if value is not None}
        self._write(json.dumps(line, allow_nan=False))  # ASCII alone, so no character can break a line

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = record.levelname.lower()  # type: ignore[assignment] # our modules use the standard ones alone
        try:
            error = record.exc_info[1] if record.exc_info else None
            cause = None if error is None else f"{type(error).__name__}: {error}"
            self.tell("log", level, logger=record.name, message=record.getMessage(), cause=cause)
        except Exception:  # noqa: BLE001 - as logging has it: what cannot be logged must not end the work
            self.handleError(record)


def _plain(value: object) -> Any:
    """Return the value in types that JSON has. NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Gain):
        return _plain({"value": value.value, "low": value.low, "high": value.high, "parent": value.parent})
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


@contextmanager
def event_log(target: str) -> Iterator[EventLog]:
    """Open a log that also takes the records of mergetune's own loggers.

    Args:
        target: a file to append to, or `-` for stderr.

    Raises:
        ObservationError: the file cannot be opened.
    """
    file = None if target == "-" else LineFile(Path(target).expanduser())
    log = EventLog(_to_stderr if file is None else file)
    try:
        with _listening(log, aloud=file is not None):
            yield log
    finally:
        if file is not None:
            file.close()


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def _listening(log: EventLog, *, aloud: bool) -> Iterator[None]:
    """Send the records of our loggers from level INFO on to the log, while the block runs.

    Args:
        aloud: whether warnings also go to stderr, as they do without a log.
    """
    handlers = [log, *([logging.lastResort] if aloud and logging.lastResort is not None else [])]
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)


class EventReporter(Reporter):
    """Writes what a worker does on one study."""

    def __init__(self, log: EventLog, study: str) -> None:
        self._log = log
        log.study, log.trial = study, None

    def worker_started(self, worker_id: str) -> None:
        self._log.worker = worker_id
        self._log.tell("worker_started", pid=os.getpid())

    def worker_left(self, finished: int) -> None:
        self._log.trial = None
        self._log.tell("worker_left", finished=finished)

    def stop_asked(self, by: str) -> None:
        self._log.tell("stop_asked", by=by)

    def trial_taken_over(self, number: int, attempt: int) -> None:
        self._log.trial = number
        self._log.tell("trial_taken_over", attempt=attempt)

    def trial_started(self, number: int, origin: str, images: int) -> None:
        self._log.trial = number
        self._log.tell("trial_started", origin=origin, images=images)

    def images_rendered(self, done: int) -> None:
        self._log.tell("images_rendered", images=done)

    def trial_finished(self, trial: StoredTrial) -> None:
        self._log.trial = trial.number  # of a trial that is given up, this is the only event
        failed = trial.state == "failed"
        took = None if trial.finished_at is None else trial.finished_at - trial.started_at
        self._log.tell(
            "trial_failed" if failed else "trial_finished",
            "warning" if failed else "info",
            origin=str(trial.origin),
            attempt=trial.attempt,
            images=trial.rendered,
            took=took,
            kind=trial.failure,
            reason=trial.reason,
            estimated=None if failed else trial.estimated,
            objectives=trial.objectives or None,
            gains=trial.gains or None,
            seconds=trial.seconds or None,
        )
        self._log.trial = None

    def trial_lost(self, number: int) -> None:
        self._log.tell("trial_lost", "warning")
        self._log.trial = None

    def outage_began(self, reason: str, limit_seconds: float) -> None:
        self._log.tell("outage_began", "warning", reason=reason, limit=limit_seconds)

    def outage_ended(self, seconds: float) -> None:
        self._log.tell("outage_ended", took=seconds)

    def paused(self) -> None:
        self._log.tell("paused")

    def batch_reduced(self, component: Batched, batch_size: int, reason: str) -> None:
        self._log.tell("batch_reduced", "warning", component=component, images=batch_size, reason=reason)

    def final_started(self, images: int) -> None:
        self._log.tell("final_started", images=images)

    def final_held(self, final: Final) -> None:
        winner = final.winner
        self._log.tell(
            "final_held",
            winner=None if winner is None else winner.number,
            gains=None if winner is None else winner.held_out,
            candidates=[finalist.number for finalist in final.candidates],
            failed=[finalist.number for finalist in final.finalists if finalist.failure is not None],
        )
