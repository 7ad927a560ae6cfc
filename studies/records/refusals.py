"""Refusals of a PostgreSQL server that its administrator can lift, such as a missing right, with what to do about each.

Codes are those of https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import OperationalError

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


def in_words(error: BaseException) -> str:
    """Return a database error's first line, and what to do where that is known."""
    cause = _cause(error)
    advice = ADVICE.get(_code(cause))
    return first_line(cause) if advice is None else f"{first_line(cause)}: {advice}"


def lacks_a_right(error: BaseException) -> bool:
    """Return whether the server refused because the role may not."""
    return _code(_cause(error)) == LACKS_A_RIGHT


def _cause(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _code(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def explain_refusals(engine: Engine, url: str) -> None:
    """Let an engine raise what a user can put right as such.

    A server that takes no writes counts as one that is away: a replica takes over, or becomes the primary again.
    """

    def explained(context: ExceptionContext) -> BaseException | None:
        code = _code(context.original_exception)
        if code == READ_ONLY:
            return OperationalError(context.statement, context.parameters, context.original_exception)
        if code in ADVICE:
            reason = in_words(context.original_exception)
            return DatabaseError(f"the study database {redacted(url)} cannot be used: {reason}")
        return None

    sa.event.listen(engine, "handle_error", explained, retval=True)
