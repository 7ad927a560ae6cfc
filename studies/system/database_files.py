"""Whether a SQLite study database can be at a path: told before SQLAlchemy or Optuna open it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from studies.errors import DatabaseError

SQLITE_MAGIC: Final = b"SQLite format 3\0"


def require_database_file(file: Path, *, create: bool) -> None:
    """Refuse a path that is not, and cannot become, a SQLite database.

    Args:
        create: whether a missing file is to be made.

    Raises:
        DatabaseError: it is such a path.
    """
    if file.is_dir():
        raise DatabaseError(f"{file} is a folder: name a database file with --storage")
    if not file.parent.is_dir():
        raise DatabaseError(f"the folder {file.parent} does not exist: create it, or name another one with --storage")
    if not file.exists():
        if not create:
            raise DatabaseError(
                f"no study database at {file}: start a study first, or name the database with --storage"
            )
        return
    try:
        with file.open("rb") as handle:
            start = handle.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise DatabaseError(f"the study database {file} cannot be read: {error.strerror}") from error
    if start not in {b"", SQLITE_MAGIC}:
        raise DatabaseError(f"{file} is not a study database: name another file with --storage")
