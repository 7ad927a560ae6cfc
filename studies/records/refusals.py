"""Refusals of a PostgreSQL server that its administrator can lift, such as a missing right, with what to do about each.

Codes are those of https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import InterfaceError, OperationalError

from basics.messages import first_line
from studies.errors import DatabaseError
from studies.system.database_url import redacted

READ_ONLY: Final = "25006"
LACKS_A_RIGHT: Final = "42501"
TAKES_NO_WRITES: Final = (
    "the server takes no writes: it is a replica, or default_transaction_read_only is on; name the primary with "
    "--storage, or wait until it takes them again"
)
ADVICE: Final = {
    READ_ONLY: TAKES_NO_WRITES,
    "22P05": "the database's encoding has no such character: make a database with ENCODING 'UTF8' for these studies",
    "22021": "the database's encoding has no such character: make a database with ENCODING 'UTF8' for these studies",
    "3F000": "no schema of the search_path exists: make one, or set the role's search_path",
    LACKS_A_RIGHT: "the role may not: let the owner of the database grant it the right (CREATE and USAGE on the "
    "schema, SELECT, INSERT, UPDATE and DELETE on its tables), or name a database of its own with --storage",
}


SILENT_FOR_TOO_LONG: Final = frozenset({"25P03", "25P04", "57P05"})  # the server has ended the session, see locking.py
REFUSES: Final = "FATAL:"  # what a server says that will have no session
NOT_NOW: Final = ("starting up", "shutting down", "recovery", "too many", "slots", "administrator command", "accepting")
PERMANENT: Final = ("unable to open", "readonly", "no such", "malformed", "disk image", "not a database")  # SQLite's


def in_words(error: BaseException) -> str:
    """Return a database error's first line, and what to do where that is known."""
    cause = cause_of(error)
    advice = ADVICE.get(sqlstate(cause))
    return first_line(cause) if advice is None else f"{first_line(cause)}: {advice}"


def lacks_a_right(error: BaseException) -> bool:
    """Return whether the server refused because the role may not."""
    return sqlstate(error) == LACKS_A_RIGHT


def is_away(error: BaseException) -> bool:
    """Return whether a database cannot be used now and may be back in a while, as far as its error tells.

    A server that answers and will not have this user is not away, and neither is a file that is no database.
    """
    error = _unwrapped(error)
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    words = str(cause_of(error))
    if REFUSES in words:
        return any(part in words for part in NOT_NOW)
    return not any(part in words for part in PERMANENT)


def cause_of(error: BaseException) -> BaseException:
    """Return the driver's own error behind what SQLAlchemy and Optuna have made of it."""
    error = _unwrapped(error)
    return getattr(error, "orig", None) or error


def _unwrapped(error: BaseException) -> BaseException:
    """Return what Optuna has wrapped: it takes every failure for data that are too long, and says so."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def sqlstate(error: BaseException) -> str:
    """Return a server's code of an error; empty where there is none."""
    return getattr(cause_of(error), "sqlstate", None) or ""


def explain_refusals(engine: Engine, url: str) -> None:
    """Let an engine raise what a user can put right as such.

    A server that takes no writes counts as one that is away: a replica takes over, or becomes the primary again. So
    does one that has ended a session in which nothing was said, which psycopg takes for a fault within the server.
    """

    def explained(context: ExceptionContext) -> BaseException | None:
        code = sqlstate(context.original_exception)
        if code == READ_ONLY or code in SILENT_FOR_TOO_LONG:
            return OperationalError(context.statement, context.parameters, context.original_exception)
        if code in ADVICE:
            reason = in_words(context.original_exception)
            return DatabaseError(f"the study database {redacted(url)} cannot be used: {reason}")
        return None

    sa.event.listen(engine, "handle_error", explained, retval=True)
