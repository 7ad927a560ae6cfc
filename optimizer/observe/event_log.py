"""What a worker does as a log for programs: one JSON object a line.

docs/reference/events-and-metrics.md has the table of keys.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import singledispatch
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from basics.names import typed_path
from optimizer.errors import ObservationError
from optimizer.observe.events import Event, FinalHeld, TrialEnded, TrialFailed, TrialLost, WorkerLeft
from optimizer.trial.judgement import is_ahead
from optimizer.trial.objective import SINGLE
from studies.records.values import Gain

PACKAGES = ("optimizer", "studies", "scorers", "search_spaces", "basics")  # whose log records are events too


class LineFile(WatchedFileHandler):
    """A file that several processes may append lines to, and that may be moved away (as logrotate does) at any time.

    A line is one write, so that lines of several processes do not mix. If the file can no longer be written, as on a
    full disk, that is said once on stderr and costs lines, never a trial.

    Raises:
        ObservationError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._complained = path, False
        try:
            super().__init__(path)
        except OSError as error:
            raise ObservationError(f"the log {path} cannot be written: {error.strerror}") from error

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of opening it anew
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._complained:
            self._complained = True
            sys.stderr.write(f"the log {self._path} cannot be written ({error.strerror}): the work goes on\n")

    def _open(self) -> io.TextIOWrapper:
        file = _Lines(self.baseFilename, "a")
        return io.TextIOWrapper(file, encoding="ascii", newline="\n", write_through=True)


class _Lines(io.FileIO):
    """A file of which every write is one line, and no line is buffered."""

    _torn = False  # whether the last line was cut short, as a disk became full

    def write(self, line: Any, /) -> int:
        whole = b"\n" * self._torn + bytes(line)  # what was torn ends first
        self._torn = super().write(whole) < len(whole)
        return len(line)


class EventLog(logging.Formatter):
    """A reporter that writes events, and the log records of mergetune's modules as events, with what is worked on.

    Args:
        handler: takes the lines.
    """

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        handler.setFormatter(self)
        handler.setLevel(logging.INFO)
        self._handler = handler
        self.study: str | None = None
        self.trial: int | None = None
        self.worker: str | None = None

    def at(self, study: str) -> EventLog:
        """Return this log; what follows is about a study."""
        self.study, self.trial = study, None
        return self

    def report(self, event: Event) -> None:
        """Write an event."""
        details = details_of(event)
        self.worker = details.pop("worker", self.worker)
        self.trial = None if isinstance(event, WorkerLeft) else details.pop("trial", self.trial)
        record = {"levelname": event.level.upper(), "details": {"event": event.event} | details}
        self._handler.handle(logging.makeLogRecord(record))
        if isinstance(event, (TrialEnded, TrialLost)):
            self.trial = None

    def format(self, record: logging.LogRecord) -> str:
        """Return an event, or another record, as one line of JSON."""
        details = getattr(record, "details", None) or _details_of_record(record)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": details["event"],
            "study": self.study,
            "trial": self.trial,
            "worker": self.worker,
        }
        line |= {key: _plain(value) for key, value in details.items() if value is not None}
        return json.dumps(line, allow_nan=False)  # ASCII alone, so no character can break a line


def _details_of_record(record: logging.LogRecord) -> dict[str, Any]:
    error = record.exc_info[1] if record.exc_info else None
    cause = None if error is None else f"{type(error).__name__}: {error}"
    return {"event": "log", "logger": record.name, "message": record.getMessage(), "cause": cause}


@singledispatch
def details_of(event: Event) -> dict[str, Any]:
    """Return what the log says of an event: its fields. What is None is left out there."""
    return {field.name: getattr(event, field.name) for field in fields(event)}


@details_of.register
def _(event: TrialEnded) -> dict[str, Any]:
    trial = event.stored
    return {
        "trial": trial.number,
        "origin": str(trial.origin),
        "attempt": trial.attempt,
        "images": trial.rendered,
        "took": None if trial.finished_at is None else trial.finished_at - trial.started_at,
        "kind": trial.failure,
        "reason": trial.reason,
        "estimated": None if isinstance(event, TrialFailed) else trial.estimated,
        "objectives": trial.objectives or None,
        "gains": trial.gains or None,
        "seconds": trial.seconds or None,
    }


@details_of.register
def _(event: FinalHeld) -> dict[str, Any]:
    winner, final = event.final.winner, event.final
    return {
        "winner": None if winner is None else winner.number,
        "gains": None if winner is None else winner.held_out,
        "better_than_parent": None if winner is None else is_ahead(winner.held_out[SINGLE]),
        "candidates": [finalist.number for finalist in final.candidates],
        "failed": [finalist.number for finalist in final.finalists if finalist.failure is not None],
    }


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
    to_stderr = target == "-"
    handler = logging.StreamHandler() if to_stderr else LineFile(typed_path(target))
    log = EventLog(handler)
    try:
        with _listening(handler, aloud=not to_stderr):
            yield log
    finally:
        handler.close()


@contextmanager
def _listening(log: logging.Handler, *, aloud: bool) -> Iterator[None]:
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
