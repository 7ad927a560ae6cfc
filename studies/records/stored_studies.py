"""Studies in the database: stored whole when they begin, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from basics.messages import in_one_line
from basics.names import the_same
from scorers.protocol import Direction
from studies.errors import DatabaseError, StudyError, StudyExistsError, StudyMissingError
from studies.records import tables
from studies.records.database import Database, inserted_id, now
from studies.records.optuna_studies import BEGINNING, create_optuna_study
from studies.records.study_records import StudyRecords
from studies.records.values import ParentFile, Status, StoredStudy
from studies.spec.fingerprints import fingerprints
from studies.spec.former import former_scheduler
from studies.spec.search import BudgetSettings
from studies.spec.study import StudySpec
from studies.system.advice import advised

SOFTWARE = ("mergetune", "torch", "diffusers", "transformers", "optuna", "open_clip_torch")


def software_versions() -> dict[str, str]:
    """Return package -> version, of the packages that renders and scores may depend on."""
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "unknown"
    return found


class FirstTrials(Protocol):
    """Trials of another study that a new one begins with."""

    def into_optuna(self, study: optuna.Study, key: str) -> None:
        """Copy files under the new study's key, and add the trials to Optuna's study; may be cut off anywhere."""

    def into_tables(self, connection: Connection, study_id: int, key: str) -> None:
        """Add the trials to our tables, in the transaction that makes the study."""


def create_study(
    database: Database,
    spec: StudySpec,
    parents: Sequence[ParentFile],
    directions: Sequence[Direction],
    names: Sequence[str],
    first_trials: FirstTrials | None = None,
    *,
    like: StoredStudy | None = None,
    status: Status = "active",
) -> StudyRecords:
    """Store a study, in our tables and in Optuna's: with the trials that it begins with, or not at all.

    Args:
        directions: "maximize" or "minimize" for each objective.
        names: what the objectives are called in the dashboard.
        first_trials: those that it begins with, if any.
        status: what people ask of its workers, from the beginning on.
        like: a study whose versions and files of scorers are this one's, too; None takes those of here and now.

    Raises:
        StudyExistsError: the name is taken.
    """
    if like is None:
        software, files = software_versions(), fingerprints(spec)  # before the lock: they may read gigabytes
    else:
        software, files = dict(like.software), dict(like.fingerprints)
    with database.exclusive():  # otherwise two of one name could be begun at once
        require_new(database, spec.study)
        in_optuna, key = create_optuna_study(database, spec.study, directions, names)
        if first_trials is not None:
            in_optuna.set_user_attr(BEGINNING, key)
            first_trials.into_optuna(in_optuna, key)
        with database.write() as connection:
            study_id = _insert_study(connection, spec, key, parents, software, files, status)
            if first_trials is not None:
                first_trials.into_tables(connection, study_id, key)
    return open_study(database, spec.study)


def _insert_study(
    connection: Connection,
    spec: StudySpec,
    key: str,
    parents: Sequence[ParentFile],
    software: Mapping[str, str],
    files: Mapping[str, str],
    status: Status,
) -> int:
    result = connection.execute(
        tables.studies.insert().values(
            name=spec.study,
            key=key,
            spec=spec.to_json(),
            suite_digest=spec.suite.digest,
            software=dict(software),
            fingerprints=dict(files),
            created_at=now(),
            status=status,
            priority=0,
        )
    )
    study_id = inserted_id(result)
    connection.execute(
        tables.parents.insert(),
        [
            {
                "study_id": study_id,
                "letter": parent.letter,
                "path": str(parent.path),
                "sha256": parent.sha256,
                "bytes": parent.bytes,
                "mtime_ns": parent.mtime_ns,
            }
            for parent in parents
        ],
    )
    return study_id


def require_new(database: Database, name: str) -> None:
    """Refuse a name that is taken.

    Raises:
        StudyExistsError: it is.
    """
    with database.engine.connect() as connection:
        there = the_same(name, _names(connection))
    if there is not None:
        command = advised(f'study resume "{there}"', database.url)
        raise StudyExistsError(
            f"a study named {there!r} exists in this database: go on with `{command}`, or give the new one another name"
        )


def _names(connection: Connection) -> Sequence[str]:
    """List the names of all studies, the oldest first."""
    return connection.execute(sa.select(tables.studies.c.name).order_by(tables.studies.c.id)).scalars().all()


def require_storable(database: Database, spec: StudySpec) -> None:
    """Ask a server whether its encoding has every character of a spec, before anything is made of that.

    Raises:
        DatabaseError: it has not.
    """
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect() as connection:
            connection.execute(sa.select(sa.func.length(sa.literal(spec.to_json()))))


def set_budget(records: StudyRecords, budget: BudgetSettings) -> StudyRecords:
    """Change what a study may spend; nothing else of a spec can change.

    Raises:
        SpecError: the study cannot end that way.
    """
    records.study.spec.with_budget(budget)
    this_study = tables.studies.c.id == records.study.id
    with records.database.write() as connection:
        stored = connection.execute(sa.select(tables.studies.c.spec).where(this_study).with_for_update()).scalar()
        if stored is not None:  # the study may have another name by now, which its spec has as well
            spec = StudySpec.from_json(stored).with_budget(budget)
            connection.execute(tables.studies.update().where(this_study).values(spec=spec.to_json()))
    return reread(records)


def reread(records: StudyRecords) -> StudyRecords:
    """Read a study again, whatever its name is by now.

    Raises:
        StudyMissingError: it was deleted meanwhile.
    """
    with records.database.engine.connect() as connection:
        this_study = tables.studies.c.id == records.study.id
        row = connection.execute(sa.select(tables.studies).where(this_study)).first()
        if row is None or row.key != records.study.key:  # SQLite gives the id of the last study away again
            raise StudyMissingError(f"study {records.study.name!r} was deleted meanwhile")
        return StudyRecords(database=records.database, study=_study(connection, row))


def open_study(database: Database, name: str) -> StudyRecords:
    """Find a study by its name.

    Raises:
        StudyMissingError: there is none of this name; the message lists those there are.
    """
    with database.engine.connect() as connection:
        known = _names(connection)
        there = the_same(name, known)
        row = connection.execute(sa.select(tables.studies).where(tables.studies.c.name == there)).first()
        if row is None:
            others = f"there are: {', '.join(known)}" if known else "it holds no study yet"
            raise StudyMissingError(f"no study named {name!r} in this database: {others}")
        return StudyRecords(database=database, study=_study(connection, row))


def list_studies(database: Database) -> list[StudyRecords]:
    """List the studies that can be read here. See `unreadable_studies` for the others."""
    return [records for records in every_study(database).values() if isinstance(records, StudyRecords)]


def unreadable_studies(database: Database) -> dict[str, str]:
    """Return name -> why, of studies that cannot be read here: because a scorer plug-in is not installed, say."""
    found = every_study(database)
    return {name: str(error) for name, error in found.items() if isinstance(error, StudyError)}


def every_study(database: Database) -> dict[str, StudyRecords | StudyError]:
    """Return name -> the study, or why it cannot be read here. Each is read by itself, so none hides another."""
    found: dict[str, StudyRecords | StudyError] = {}
    with database.engine.connect() as connection:
        for name in _names(connection):
            try:
                row = connection.execute(sa.select(tables.studies).where(tables.studies.c.name == name)).one()
                found[name] = StudyRecords(database=database, study=_study(connection, row))
            except StudyError as error:
                found[name] = error
            except (SQLAlchemyError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever another program has put into the row
                found[name] = DatabaseError(f"its row is malformed ({in_one_line(error)}): restore a backup")
    return found


def _study(connection: Connection, row: Row[Any]) -> StoredStudy:
    parents = connection.execute(
        sa.select(tables.parents).where(tables.parents.c.study_id == row.id).order_by(tables.parents.c.letter)
    )
    return StoredStudy(
        id=row.id,
        key=row.key,
        name=row.name,
        spec=StudySpec.from_json(row.spec).with_stages_of(row.suite_digest),
        former_scheduler=former_scheduler(row.spec),
        suite_digest=row.suite_digest,
        parents=tuple(
            ParentFile(
                letter=parent.letter,
                path=Path(parent.path),
                sha256=parent.sha256,
                bytes=parent.bytes,
                mtime_ns=parent.mtime_ns,
            )
            for parent in parents
        ),
        software=row.software,
        fingerprints=row.fingerprints,
        created_at=row.created_at,
        status=row.status,
        priority=row.priority,
    )
