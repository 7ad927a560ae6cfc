"""JSON as it stands in the database: whatever another program or a damaged disk has put there is named as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basics.messages import in_one_line
from studies.errors import DatabaseError

SHOWN_LETTERS = 40  # of what is no JSON


@contextmanager
def explained_row(what: str) -> Iterator[None]:
    """Turn whatever a row raises that another program has written, or changed, into a DatabaseError.

    Args:
        what: which row, in words.
    """
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DatabaseError(
            f"{what} is malformed in the study database ({in_one_line(error)}): restore a backup, or correct the row"
        ) from error


def mapping(column: Any) -> dict[str, Any]:
    """Return the JSON object of a column; an empty one for NULL.

    Raises:
        TypeError: it is another kind of JSON.
    """
    if column is None:
        return {}
    if not isinstance(column, dict):
        raise TypeError(f"expected a JSON object, got {column!r}")
    return column


def parse_column(text: str) -> Any:
    """Parse the JSON of a column; SQLAlchemy's `json_deserializer`.

    Raises:
        DatabaseError: it is none.
    """
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        shown = repr(text[:SHOWN_LETTERS]) if isinstance(text, str) else type(text).__name__
        raise DatabaseError(
            f"the study database holds {shown} where JSON was expected: restore a backup, or correct the row"
        ) from error
