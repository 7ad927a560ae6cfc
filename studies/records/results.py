"""What a study asked and found: recorded in single transactions, read back as frozen values."""

from __future__ import annotations

import functools
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
import sqlalchemy as sa
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from sqlalchemy.engine import Connection, CursorResult, Row

from scorers.protocol import Direction
from studies.errors import SpecError, StudyExistsError, StudyMissingError
from studies.recipe.recipe import Recipe
from studies.records import tables
from studies.records.database import Database, now
from studies.spec.fingerprints import fingerprints
from studies.spec.study import BudgetSettings, StudySpec

SOFTWARE = ("mergetune", "torch", "diffusers", "transformers", "optuna", "open_clip_torch")
State = Literal["running", "complete", "failed"]
Status = Literal["active", "paused", "stopped"]
BEGINNING = "mergetune:takes trials over"  # our key, of an Optuna study: without one of ours, its start was cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentFile:
    """A parent checkpoint as the study first saw it."""

    letter: str
    path: Path
    sha256: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    id: int
    key: str  # what its files in an artifact folder are kept under
    name: str
    spec: StudySpec
    suite_digest: str
    parents: tuple[ParentFile, ...]
    software: Mapping[str, str]
    fingerprints: Mapping[str, str]  # scorer -> digest of the files it reads
    created_at: float
    status: Status  # as it was when the study was read; studies/records/control.py has it as it is now
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better than the better parent, with the 95 % interval over the suite's items.

    Positive is better whatever the score's direction; `low` and `high` are None where no interval can be given
    (one item only).
    """

    value: float
    low: float | None
    high: float | None
    parent: str  # letter of the parent compared with: the better one in this score


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What evaluating one recipe gave; stored whole or not at all."""

    objectives: Mapping[str, float]  # as told to Optuna, in the study's order
    items: tuple[int, ...] | None = None  # of the suite that were rendered, in their order; None: all
    image_scores: Mapping[str, tuple[float, ...]]  # scorer -> one value per item
    set_scores: Mapping[str, float]
    pixels_sha256: tuple[str, ...]  # per item
    files: Mapping[int, str] = field(default_factory=dict)  # item -> name of its PNG in the artifact store
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    sheet: str | None = None
    incumbent: int | None = None  # of a stopped trial: see StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    id: int
    number: int
    origin: str
    recipe_text: str  # JSON
    worker_id: str
    attempt: int
    state: State
    reason: str | None
    objectives: Mapping[str, float]
    gains: Mapping[str, Gain]
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    sheet: str | None
    started_at: float
    finished_at: float | None
    rendered: int = 0  # images; 0 while it runs
    incumbent: int | None = None  # the trial that a stopped one was compared with, on the items it has
    errors: Mapping[str, float] = field(default_factory=dict)  # objective or score -> its standard error over the suite
    source: str | None = None  # "STUDY trial 12" where it was taken over with its scores

    @property
    def recipe(self) -> Recipe:
        """What was merged. Parsed when it is asked for: most who look at trials do not."""
        return _recipe(self.recipe_text)

    @property
    def estimated(self) -> bool:
        """Whether it was stopped before all items were rendered, so that its objective is an estimate."""
        return self.incumbent is not None

    @property
    def is_whole(self) -> bool:
        """Whether it is complete and has all items: what may be the best."""
        return self.state == "complete" and not self.estimated

    @property
    def title(self) -> str:
        """What the trial is, for people."""
        return self.origin if self.source is None else f"{self.origin}, from {self.source}"


@functools.lru_cache(maxsize=512)
def _recipe(text: str) -> Recipe:
    return Recipe.from_json(text)


class Takeover(Protocol):
    """Trials of another study that a new one begins with."""

    def into_optuna(self, study: optuna.Study, key: str) -> None:
        """Copy files under the new study's key, and add the trials to Optuna's study; may be cut off anywhere."""

    def into_tables(self, connection: Connection, study_id: int, key: str) -> None:
        """Add the trials to our tables, in the transaction that makes the study."""


def software_versions() -> dict[str, str]:
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "unknown"
    return found


# ----------------------------------------------------------------------------------------- studies


def create_study(
    database: Database,
    spec: StudySpec,
    parents: Sequence[ParentFile],
    directions: Sequence[Direction],
    names: Sequence[str],
    takeover: Takeover | None = None,
) -> StoredStudy:
    """Register a study with Optuna and with us; with the trials it begins with, or not at all.

    Args:
        directions: "maximize" or "minimize" per objective.
        names: what the objectives are called in the dashboard.

    Raises:
        StudyExistsError: the name is taken.
    """
    software, files = software_versions(), fingerprints(spec)  # gigabytes may be read for them: not under the lock
    with database.exclusive():  # or two of one name could be begun at once
        require_new(database, spec.study)
        told, key = _create_optuna_study(database, spec.study, directions, names)
        if takeover is not None:
            told.set_user_attr(BEGINNING, key)
            takeover.into_optuna(told, key)
        with database.write() as connection:
            study_id = _insert_study(connection, spec, key, parents, software, files)
            if takeover is not None:
                takeover.into_tables(connection, study_id, key)
    return load_study(database, spec.study)


def _create_optuna_study(
    database: Database, name: str, directions: Sequence[Direction], names: Sequence[str]
) -> tuple[optuna.Study, str]:
    """Optuna's part comes first, so one may be left from a start that was cut off: it is made anew.

    Returns:
        The study, and our key for it: that of the start that was cut off, whose files are then replaced.
    """
    key = uuid.uuid4().hex
    if name in optuna.get_all_study_names(storage=database.storage):
        left = optuna.load_study(study_name=name, storage=database.storage)
        if left.get_trials(deepcopy=False) and BEGINNING not in left.user_attrs:
            raise StudyExistsError(
                f"this database holds an Optuna study named {name!r} that mergetune did not make: "
                "give the new one another name"
            )
        key = left.user_attrs.get(BEGINNING, key)
        optuna.delete_study(study_name=name, storage=database.storage)
    study = optuna.create_study(storage=database.storage, study_name=name, directions=list(directions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # stable since Optuna 3.2 all the same
        study.set_metric_names(list(names))
    return study, key


def _insert_study(
    connection: Connection,
    spec: StudySpec,
    key: str,
    parents: Sequence[ParentFile],
    software: Mapping[str, str],
    files: Mapping[str, str],
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
            status="active",
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


def inserted_id(result: CursorResult[Any]) -> int:
    """The id of the one row that was inserted."""
    (row_id,) = result.inserted_primary_key or (None,)
    return int(row_id)  # type: ignore[arg-type]


def require_new(database: Database, name: str) -> None:
    """Raises StudyExistsError when the name is taken."""
    with database.engine.connect() as connection:
        query = sa.select(tables.studies.c.id).where(tables.studies.c.name == name)
        if connection.execute(query).first() is not None:
            raise StudyExistsError(
                f'a study named {name!r} exists in this database: go on with `mergetune study resume "{name}"`, '
                "or give the new one another name"
            )


def set_budget(database: Database, study: StoredStudy, budget: BudgetSettings) -> StoredStudy:
    """Change what a study may spend; nothing else of a spec can change.

    Raises:
        SpecError: the study cannot end that way.
    """
    spec = study.spec.with_budget(budget)
    with database.write() as connection:
        connection.execute(tables.studies.update().where(tables.studies.c.id == study.id).values(spec=spec.to_json()))
    return load_study(database, study.name)


def load_study(database: Database, name: str) -> StoredStudy:
    """Raises StudyMissingError, naming the studies there are."""
    with database.engine.connect() as connection:
        row = connection.execute(sa.select(tables.studies).where(tables.studies.c.name == name)).first()
        if row is None:
            known = connection.execute(sa.select(tables.studies.c.name).order_by(tables.studies.c.id)).scalars().all()
            there = f"there are: {', '.join(known)}" if known else "it holds no study yet"
            raise StudyMissingError(f"no study named {name!r} in this database: {there}")
        return _study(connection, row)


def list_studies(database: Database) -> list[StoredStudy]:
    """Those that can be understood here; see `unreadable_studies`."""
    return [study for study in every_study(database).values() if isinstance(study, StoredStudy)]


def unreadable_studies(database: Database) -> dict[str, str]:
    """Name -> why, of studies that cannot be understood here: of a scorer plug-in that is not installed, say."""
    found = every_study(database)
    return {name: str(study) for name, study in found.items() if isinstance(study, SpecError)}


def every_study(database: Database) -> dict[str, StoredStudy | SpecError]:
    """Name -> the study, or why it cannot be understood here."""
    found: dict[str, StoredStudy | SpecError] = {}
    with database.engine.connect() as connection:
        for row in connection.execute(sa.select(tables.studies).order_by(tables.studies.c.id)).all():
            try:
                found[row.name] = _study(connection, row)
            except SpecError as error:
                found[row.name] = error
    return found


def _study(connection: Connection, row: Row[Any]) -> StoredStudy:
    parents = connection.execute(
        sa.select(tables.parents).where(tables.parents.c.study_id == row.id).order_by(tables.parents.c.letter)
    )
    return StoredStudy(
        id=row.id,
        key=row.key,
        name=row.name,
        spec=StudySpec.from_json(row.spec),
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


# ------------------------------------------------------------------------------------------ trials


def begin_trial(
    database: Database,
    study: StoredStudy,
    number: int,
    origin: str,
    recipe: Recipe,
    worker_id: str,
    attempt: int = 1,
) -> bool:
    """Note who works on a trial, and on what; replaces what an interrupted worker left.

    From now on only this worker can store the trial's outcome. False, and nothing is changed, where it has one.
    """
    mine = sa.and_(tables.trials.c.study_id == study.id, tables.trials.c.number == number)
    with database.write() as connection:
        connection.execute(tables.trials.delete().where(mine, tables.trials.c.state == "running"))
        if connection.execute(sa.select(tables.trials.c.id).where(mine)).first() is not None:
            return False
        connection.execute(
            tables.trials.insert().values(
                study_id=study.id,
                number=number,
                origin=origin,
                recipe=recipe.to_json(),
                recipe_digest=recipe.digest,
                worker_id=worker_id,
                attempt=attempt,
                state="running",
                rendered=0,
                started_at=now(),
            )
        )
        return True


def finish_trial(database: Database, study: StoredStudy, number: int, worker_id: str, result: TrialResult) -> bool:
    """Store a result whole; False, and nothing is stored, where another worker has taken this one for dead.

    True as well for what this worker has stored already: it may not know, if the connection broke at that moment.
    """
    with database.write() as connection:
        trial_id = _trial_id(connection, study, number)
        stored = connection.execute(
            tables.trials.update()
            .where(_is_held(trial_id, worker_id))
            .values(
                state="complete",
                objectives=dict(result.objectives),
                seconds=dict(result.seconds),
                machine=dict(result.machine),
                sheet=result.sheet,
                rendered=len(result.pixels_sha256),
                incumbent=result.incumbent,
                finished_at=now(),
            )
        )
        if stored.rowcount == 0:
            return _was_stored_by(connection, trial_id, worker_id)
        insert_renders(connection, trial_id, result)
        return True


def _is_held(trial_id: int, worker_id: str) -> sa.ColumnElement[bool]:
    """Whether a trial runs, and in this worker's hands."""
    return sa.and_(
        tables.trials.c.id == trial_id, tables.trials.c.state == "running", tables.trials.c.worker_id == worker_id
    )


def _was_stored_by(connection: Connection, trial_id: int, worker_id: str) -> bool:
    row = connection.execute(sa.select(tables.trials).where(tables.trials.c.id == trial_id)).one()
    return bool(row.worker_id == worker_id and row.state != "running")


def insert_renders(connection: Connection, trial_id: int, result: TrialResult) -> None:
    """The renders and scores of a trial."""
    items = range(len(result.pixels_sha256)) if result.items is None else result.items
    connection.execute(
        tables.renders.insert(),
        [
            {"trial_id": trial_id, "item": item, "pixels_sha256": digest, "file": result.files.get(item)}
            for item, digest in zip(items, result.pixels_sha256, strict=True)
        ],
    )
    connection.execute(tables.scores.insert(), list(_score_rows(trial_id, result)))


def _score_rows(trial_id: int, result: TrialResult) -> Iterable[dict[str, object]]:
    for scorer, values in result.image_scores.items():
        items = range(len(values)) if result.items is None else result.items
        for item, value in zip(items, values, strict=True):
            yield {"trial_id": trial_id, "scorer": scorer, "item": item, "value": value}
    for scorer, value in result.set_scores.items():
        yield {"trial_id": trial_id, "scorer": scorer, "item": None, "value": value}


def store_gains(
    database: Database, trial: StoredTrial, gains: Mapping[str, Gain], errors: Mapping[str, float] | None = None
) -> None:
    """Gains over the parents, and the standard errors of the trial's own scores."""
    values = {name: [gain.value, gain.low, gain.high, gain.parent] for name, gain in gains.items()}
    with database.write() as connection:
        connection.execute(
            tables.trials.update().where(tables.trials.c.id == trial.id).values(gains=values, errors=dict(errors or {}))
        )


def fail_trial(
    database: Database,
    study: StoredStudy,
    number: int,
    worker_id: str,
    reason: str,
    rendered: int = 0,
    seconds: Mapping[str, float] | None = None,
) -> bool:
    """Store why a trial failed, and how many images and seconds it cost; False as `finish_trial` has it."""
    with database.write() as connection:
        trial_id = _trial_id(connection, study, number)
        stored = connection.execute(
            tables.trials.update()
            .where(_is_held(trial_id, worker_id))
            .values(state="failed", reason=reason, rendered=rendered, seconds=dict(seconds or {}), finished_at=now())
        )
        return bool(stored.rowcount) or _was_stored_by(connection, trial_id, worker_id)


def _trial_id(connection: Connection, study: StoredStudy, number: int) -> int:
    query = sa.select(tables.trials.c.id).where(tables.trials.c.study_id == study.id, tables.trials.c.number == number)
    return int(connection.execute(query).scalar_one())


def load_trials(database: Database, study: StoredStudy) -> list[StoredTrial]:
    """Every trial that was begun, by number."""
    return read_trials(database, study)


def read_trials(database: Database, study: StoredStudy, *which: sa.ColumnElement[bool]) -> list[StoredTrial]:
    """The trials of which all of this holds, by number."""
    query = sa.select(tables.trials).where(tables.trials.c.study_id == study.id, *which)
    with database.engine.connect() as connection:
        return [_trial(row) for row in connection.execute(query.order_by(tables.trials.c.number))]


def optuna_study(database: Database, name: str, sampler: BaseSampler | None = None) -> optuna.Study:
    """Optuna's part of a study.

    Args:
        sampler: who proposes; left out, nobody of ours does, for Optuna then takes its default.

    Raises:
        StudyMissingError: its trials are gone, deleted in the dashboard.
    """
    try:
        return optuna.load_study(study_name=name, storage=database.storage, sampler=sampler)
    except KeyError as error:
        raise StudyMissingError(
            f"the trials of study {name!r} were deleted in the dashboard: start a study of another name"
        ) from error


def optuna_trials(database: Database, study: StoredStudy) -> list[FrozenTrial]:
    """Optuna's side of every trial that was asked for, by number: parameters, and what the sampler noted."""
    return optuna_study(database, study.name).get_trials(deepcopy=False)


def load_trial(database: Database, study: StoredStudy, number: int) -> StoredTrial | None:
    query = sa.select(tables.trials).where(tables.trials.c.study_id == study.id, tables.trials.c.number == number)
    with database.engine.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else _trial(row)


def _trial(row: Row[Any]) -> StoredTrial:
    gains = {
        name: Gain(value=value, low=low, high=high, parent=parent)
        for name, (value, low, high, parent) in (row.gains or {}).items()
    }
    return StoredTrial(
        id=row.id,
        number=row.number,
        origin=row.origin,
        recipe_text=row.recipe,
        worker_id=row.worker_id,
        attempt=row.attempt,
        state=row.state,
        reason=row.reason,
        objectives=row.objectives or {},
        gains=gains,
        errors=row.errors or {},
        seconds=row.seconds or {},
        machine=row.machine or {},
        sheet=row.sheet,
        started_at=row.started_at,
        finished_at=row.finished_at,
        rendered=row.rendered,
        incumbent=row.incumbent,
        source=row.source,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRender:
    item: int
    pixels_sha256: str
    file: str | None


def load_renders(database: Database, trial: StoredTrial) -> list[StoredRender]:
    query = sa.select(tables.renders).where(tables.renders.c.trial_id == trial.id).order_by(tables.renders.c.item)
    with database.engine.connect() as connection:
        return [
            StoredRender(item=row.item, pixels_sha256=row.pixels_sha256, file=row.file)
            for row in connection.execute(query)
        ]


def kept_files(database: Database, study: StoredStudy) -> dict[int, frozenset[str]]:
    """Number -> names of the PNG files of its renders, of trials that keep any."""
    query = (
        sa.select(tables.trials.c.number, tables.renders.c.file)
        .join(tables.renders, tables.renders.c.trial_id == tables.trials.c.id)
        .where(tables.trials.c.study_id == study.id, tables.renders.c.file.is_not(None))
    )
    found: dict[int, set[str]] = {}
    with database.engine.connect() as connection:
        for row in connection.execute(query):
            found.setdefault(row.number, set()).add(row.file)
    return {number: frozenset(files) for number, files in found.items()}


def numbers_with_set_scores(database: Database, study: StoredStudy) -> frozenset[int]:
    """Trials with scores of a whole set, whose features must be kept."""
    query = (
        sa.select(tables.trials.c.number)
        .join(tables.scores, tables.scores.c.trial_id == tables.trials.c.id)
        .where(tables.trials.c.study_id == study.id, tables.scores.c.item.is_(None))
        .distinct()
    )
    with database.engine.connect() as connection:
        return frozenset(connection.execute(query).scalars())


def drop_files(database: Database, trial: StoredTrial) -> list[str]:
    """Forget the PNG files of a trial's renders; returns their paths below the artifact folder."""
    with database.write() as connection:
        query = sa.select(tables.renders.c.file).where(tables.renders.c.trial_id == trial.id)
        files = [file for file in connection.execute(query).scalars() if file is not None]
        connection.execute(tables.renders.update().where(tables.renders.c.trial_id == trial.id).values(file=None))
    return files


def load_scores(database: Database, trial: StoredTrial) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """(scorer -> value per item that was rendered, in their order, scorer -> value of the set of these)."""
    query = (
        sa.select(tables.scores)
        .where(tables.scores.c.trial_id == trial.id)
        .order_by(tables.scores.c.scorer, tables.scores.c.item)
    )
    by_item: dict[str, list[float]] = {}
    by_set: dict[str, float] = {}
    with database.engine.connect() as connection:
        for row in connection.execute(query):
            if row.item is None:
                by_set[row.scorer] = row.value
            else:
                by_item.setdefault(row.scorer, []).append(row.value)
    return {scorer: tuple(values) for scorer, values in by_item.items()}, by_set
