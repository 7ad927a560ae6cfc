"""A study database or an artifact store that is away for a while: a worker waits for it and loses nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from basics.messages import first_line
from optimizer.errors import DatabaseLostError
from studies.errors import ArtifactError, ArtifactsAwayError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0
LIMIT_SECONDS = 600.0

OUTAGES = (OperationalError, InterfaceError, StorageInternalError, ArtifactsAwayError)
"""What SQLAlchemy and Optuna raise when a server is away, a connection breaks, or a SQLite file stays locked; and what
our artifact stores do.

A table that is missing is an OperationalError of SQLite too: that is waited for as well, and told in the end.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Does again what failed for want of the database or of the artifact store, at growing intervals.

    Args:
        limit_seconds: after so long without it, it is given up.
        on_waiting: told for what it waits and why, and for how long it will be waited at most, when an outage begins.
        on_back: told for how long, in seconds, when it is over.
    """

    limit_seconds: float = LIMIT_SECONDS
    on_waiting: Callable[[str, float], None] = lambda _reason, _seconds: None
    on_back: Callable[[float], None] = lambda _seconds: None

    def __call__(self, action: Callable[[], T]) -> T:
        """What `action` returns; it must do no harm when it is done twice.

        Raises:
            DatabaseLostError: the database stayed away.
            ArtifactError: the artifact store did.
        """
        begun, pause = None, FIRST_PAUSE_SECONDS
        while True:
            try:
                found = action()
            except OUTAGES as error:
                now = time.monotonic()
                what = "artifact store" if isinstance(error, ArtifactsAwayError) else "study database"
                if begun is None:
                    begun = now
                    _log.warning("the %s is away (%s)", what, reason_of(error))
                    self.on_waiting(f"the {what} ({reason_of(error)})", self.limit_seconds)
                if now - begun + pause > self.limit_seconds:
                    lost = ArtifactError if isinstance(error, ArtifactsAwayError) else DatabaseLostError
                    raise lost(
                        f"the {what} has been away for {now - begun:.0f} seconds ({reason_of(error)}): nothing that "
                        "was stored is lost; bring it back and go on with `mergetune study resume`"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if begun is not None:
                    self.on_back(time.monotonic() - begun)
                return found


def reason_of(error: BaseException) -> str:
    """The driver's own words, one line."""
    cause: BaseException = error
    while isinstance(cause, StorageInternalError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig
    return first_line(cause)
