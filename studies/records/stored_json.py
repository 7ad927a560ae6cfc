"""JSON as it stands in the database: whatever another program or a damaged disk has put there is named as such."""

from __future__ import annotations

import json
from typing import Any

from studies.errors import DatabaseError

SHOWN_LETTERS = 40  # of what is no JSON


def parse_json(text: str) -> Any:
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
