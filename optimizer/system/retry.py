"""Waiting for a study database or an artifact store that is away for a while, so that a worker loses nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError
from tenacity import RetryCallState, Retrying, wait_exponential

from basics.messages import first_line
from optimizer.errors import DatabaseLostError
from studies.errors import ArtifactsAwayError, ArtifactsLostError, DatabaseAwayError, LockLostError, WaitEndedError
from studies.records.refusals import cause_of
from studies.system.waiting import STOPPING_SECONDS, USUAL_PATIENCE_SECONDS, pause, stop_asked

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0

OUTAGES = (
    OperationalError,
    InterfaceError,
    StorageInternalError,
    DatabaseAwayError,
    LockLostError,
    ArtifactsAwayError,
)
"""What SQLAlchemy and Optuna raise when a server is away, a connection breaks, or a SQLite file stays locked, what we
raise where one is opened or a lock was lost meanwhile, and what our artifact stores raise when they are away.

SQLite raises OperationalError for a missing table, too: that is waited for as well, and reported in the end.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Does again what failed for want of the database or of the artifact store, at growing intervals.

    Args:
        limit_seconds: how long an outage may last, counted from when it is noticed.
        on_waiting: called when an outage begins, with what is away and why, and with the limit in seconds.
        on_back: called when an outage is over, with its length in seconds.
    """

    limit_seconds: float = USUAL_PATIENCE_SECONDS
    on_waiting: Callable[[str, float], None] = lambda _reason, _seconds: None
    on_back: Callable[[float], None] = lambda _seconds: None

    def __call__(self, action: Callable[[], T]) -> T:
        """Return what `action` returns; it must do no harm when it is done twice.

        Raises:
            DatabaseLostError: the database stayed away.
            ArtifactsLostError: the artifact store did.
            WaitEndedError: the process was asked to stop meanwhile.
        """
        outage = _Outage(self)
        try:
            found = Retrying(
                before=outage.hold,
                retry=outage.is_on,
                after=outage.note,
                wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
                sleep=pause,
                stop=outage.is_too_long,
                retry_error_callback=outage.give_up,
            )(action)
        finally:
            outage.release()
        if outage.began is not None:
            self.on_back(outage.seconds())
        return found


class _Outage:
    """The outage that an action may meet. At each attempt tenacity calls its methods in this order."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._attempt: RetryCallState | None = None  # the last one
        self.began: float | None = None  # time.monotonic, when it was noticed

    def hold(self, attempt: RetryCallState) -> None:
        """Hold an attempt that begins, until it is released."""
        self._attempt = attempt

    def is_on(self, attempt: RetryCallState) -> bool:
        """Return whether the attempt failed by an outage."""
        return isinstance(_error_of(attempt), OUTAGES)

    def note(self, attempt: RetryCallState) -> None:
        """Report the outage when it begins."""
        if self.began is None:
            self.began = time.monotonic()
            what, reason = _described(_error_of(attempt))
            _log.warning("the %s is away (%s)", what, reason)
            self._retry.on_waiting(f"the {what} ({reason})", self._retry.limit_seconds)

    def is_too_long(self, attempt: RetryCallState) -> bool:
        """Return whether the next pause would go beyond the limit, which is short once the process is to stop."""
        if stop_asked() and self.seconds() > STOPPING_SECONDS:
            return True
        return self.seconds() + attempt.upcoming_sleep > self._retry.limit_seconds

    def give_up(self, attempt: RetryCallState) -> NoReturn:
        """Raise the error of an outage that lasts too long.

        Raises:
            DatabaseLostError: the database is away.
            ArtifactsLostError: the artifact store is.
            WaitEndedError: the process was asked to stop.
        """
        error = _error_of(attempt)
        what, reason = _described(error)
        if stop_asked():
            raise WaitEndedError(f"asked to stop while waiting for the {what} ({reason})") from error
        lost = ArtifactsLostError if isinstance(error, ArtifactsAwayError) else DatabaseLostError
        raise lost(
            f"the {what} has been away for {self.seconds():.0f} seconds ({reason}): nothing that was stored is lost; "
            "bring it back and resume the study"
        ) from error

    def release(self) -> None:
        """Drop the last attempt and its error.

        The error holds tenacity's frames, and they hold it. Without this, all that the action refers to would stay in
        memory until the garbage collector comes by, models as well.
        """
        if self._attempt is not None:
            self._attempt.outcome = None
        self._attempt = None

    def seconds(self) -> float:
        """Return how long the outage has lasted."""
        return 0.0 if self.began is None else time.monotonic() - self.began


def _error_of(attempt: RetryCallState) -> BaseException | None:
    return None if attempt.outcome is None else attempt.outcome.exception()


def _described(error: BaseException | None) -> tuple[str, str]:
    """Return what is away, and the driver's own words for it in one line."""
    what = "artifact store" if isinstance(error, ArtifactsAwayError) else "study database"
    return what, "" if error is None else first_line(cause_of(error))
