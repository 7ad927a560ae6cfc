"""Whether a database is another program's: looked at before anything is made in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from studies.errors import DatabaseError
from studies.records.tables import VERSION_TABLE

OPTUNAS: Final = {  # a few of Optuna's tables with a few of their columns: others have tables of these names, too
    "studies": {"study_id", "study_name"},
    "trials": {"trial_id", "number", "study_id"},
    "version_info": {"schema_version", "library_version"},
}
REVISION: Final = re.compile(r"v\d+\.\d+\.\d+\.\w+")  # as Optuna's migrations are called; Alembic's own are hex digits
PROGRAMS: Final[Mapping[str, frozenset[str]]] = {
    "MLflow": frozenset({"experiments", "runs", "latest_metrics"}),
    "Firefox": frozenset({"moz_places"}),
    "Firefox (cookies)": frozenset({"moz_cookies"}),
    "Chrome or a relative of it": frozenset({"urls", "visits", "meta"}),
    "Airflow": frozenset({"dag", "dag_run", "task_instance"}),
    "a Django application": frozenset({"django_migrations"}),
    "a Rails application": frozenset({"schema_migrations", "ar_internal_metadata"}),
}
NAMES_SHOWN: Final = 5

_OF_EXTENSIONS: Final = (
    "SELECT c.relname FROM pg_class c JOIN pg_depend d ON d.objid = c.oid "
    "WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
)


def refuse_other_programs(connection: Connection, name: str) -> None:
    """Refuse a database that holds tables of neither Optuna nor us.

    Args:
        name: of the database, for messages.

    Raises:
        DatabaseError: it holds another program's.
    """
    tables = _tables(connection)
    if not tables:
        return
    revision = _revision(connection) if "alembic_version" in tables else None
    known = revision is None or REVISION.fullmatch(revision) is not None
    if known and (VERSION_TABLE in tables or _is_optunas(connection, tables)):
        return
    shown = ", ".join(sorted(tables)[:NAMES_SHOWN]) + (", ..." if len(tables) > NAMES_SHOWN else "")
    raise DatabaseError(
        f"{name} is {_owner(tables)}, not a study database (its tables are {shown}); nothing was changed in it: name "
        "another database with --storage"
    )


def _tables(connection: Connection) -> frozenset[str]:
    """Return those that a name alone would find, without what a server's extensions have brought."""
    names = set(sa.inspect(connection).get_table_names())
    if connection.dialect.name == "postgresql":
        names -= set(connection.execute(sa.text(_OF_EXTENSIONS)).scalars())
    return frozenset(names)


def _revision(connection: Connection) -> str | None:
    row: Any = connection.execute(sa.text("SELECT * FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _is_optunas(connection: Connection, tables: frozenset[str]) -> bool:
    if not tables.issuperset(OPTUNAS):
        return False
    inspector = sa.inspect(connection)
    return all(
        columns <= {column["name"] for column in inspector.get_columns(table)} for table, columns in OPTUNAS.items()
    )


def _owner(tables: frozenset[str]) -> str:
    found = next((program for program, signs in PROGRAMS.items() if signs <= tables), None)
    return "another program's" if found is None else f"the database of {found}"
