"""Waits for other processes: they say what they wait for, and end when this process is asked to stop.

A wait inside a driver ends with the driver's own time-out, so whoever waits there waits in slices and looks here in
between. How long a wait may last, and who asks to stop, holds for the thread that says it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from studies.errors import WaitEndedError

NOTICE_SECONDS: Final = 5.0  # of a wait, before it says what it waits for
STOPPING_SECONDS: Final = 5.0  # that a wait may last once the process is asked to stop
SLICE_SECONDS: Final = 0.25  # between two looks
USUAL_PATIENCE_SECONDS: Final = 600.0

_asked_to_stop: ContextVar[Callable[[], bool]] = ContextVar("asked_to_stop", default=lambda: False)
_patience: ContextVar[float] = ContextVar("patience", default=USUAL_PATIENCE_SECONDS)

_log = logging.getLogger(__name__)


@contextmanager
def ending_when(asked_to_stop: Callable[[], bool], patience_seconds: float) -> Iterator[None]:
    """Let the waits of the block end when the process is asked to stop, and say how long they may last.

    Args:
        patience_seconds: how long a wait for another process's lock may last.
    """
    stop, patience = _asked_to_stop.set(asked_to_stop), _patience.set(patience_seconds)
    try:
        yield
    finally:
        _asked_to_stop.reset(stop)
        _patience.reset(patience)


def set_patience(seconds: float) -> None:
    """Say how long a wait for another process's lock may last, from now on."""
    _patience.set(seconds)


def stop_asked() -> bool:
    """Return whether the process is asked to stop."""
    return _asked_to_stop.get()()


def pause(seconds: float) -> None:
    """Sleep; at most a second once the process is asked to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop_asked():
            time.sleep(min(left, 1.0))
            return
        time.sleep(min(SLICE_SECONDS, left))


class Wait:
    """One wait, from its making on.

    Args:
        limit_seconds: how long it may last; None: as long as this thread has patience.
    """

    def __init__(self, limit_seconds: float | None = None) -> None:
        self._began = time.monotonic()
        self._limit = _patience.get() if limit_seconds is None else limit_seconds
        self._said = False

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._began

    def goes_on(self, what: Callable[[], str]) -> bool:
        """Return whether there is time left to wait; once the wait has become long, say what it is for.

        Args:
            what: returns what is waited for, in words.

        Raises:
            WaitEndedError: the process is asked to stop.
        """
        if stop_asked() and self.seconds > STOPPING_SECONDS:
            raise WaitEndedError(f"asked to stop while waiting for {what()}")
        if not self._said and self.seconds > NOTICE_SECONDS:
            self._said = True
            _log.warning("waiting for %s", what())
        return self.seconds < self._limit
