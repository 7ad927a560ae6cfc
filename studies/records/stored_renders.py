"""Renders and scores of trials in the database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from studies.errors import StudyChangedError
from studies.records import tables
from studies.records.study_records import StudyRecords
from studies.records.values import StoredRender, StoredTrial, TrialResult


def insert_renders(connection: Connection, trial_id: int, result: TrialResult) -> None:
    """Insert the renders and scores of a trial."""
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
            if isinstance(value, float) and math.isnan(value):
                continue  # the scorer leaves the item out
            yield {"trial_id": trial_id, "scorer": scorer, "item": item, "value": value}
    for scorer, value in result.set_scores.items():
        yield {"trial_id": trial_id, "scorer": scorer, "item": None, "value": value}


def load_renders(records: StudyRecords, trial: StoredTrial) -> list[StoredRender]:
    """Read a trial's renders, in the order of their items.

    Raises:
        StudyChangedError: they are not renders of the study's suite.
    """
    query = sa.select(tables.renders).where(tables.renders.c.trial_id == trial.id).order_by(tables.renders.c.item)
    with records.database.engine.connect() as connection:
        found = [
            StoredRender(item=row.item, pixels_sha256=row.pixels_sha256, file=row.file)
            for row in connection.execute(query)
        ]
    _refuse_others([render.item for render in found], records, trial)
    return found


def files_of(renders: Iterable[StoredRender]) -> dict[int, str]:
    """Return the files of one trial's renders by item, without their folder; those that are not stored are left out."""
    return {each.item: each.file.rpartition("/")[2] for each in renders if each.file is not None}


def load_scores(records: StudyRecords, trial: StoredTrial) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Read a trial's scores.

    Returns:
        Scorer -> a value for each item that was rendered, in their order, NaN where the scorer leaves it out; and
        scorer -> the value of their whole set.

    Raises:
        StudyChangedError: they are not scores of the study's suite.
    """
    query = (
        sa.select(tables.scores)
        .where(tables.scores.c.trial_id == trial.id)
        .order_by(tables.scores.c.scorer, tables.scores.c.item)
    )
    rendered = sa.select(tables.renders.c.item).where(tables.renders.c.trial_id == trial.id)
    by_item: dict[str, dict[int, float]] = {}
    by_set: dict[str, float] = {}
    with records.database.engine.connect() as connection:
        for row in connection.execute(query):
            if row.item is None:
                by_set[row.scorer] = row.value
            else:
                by_item.setdefault(row.scorer, {})[row.item] = row.value
        items = list(connection.execute(rendered.order_by(tables.renders.c.item)).scalars())
    _refuse_others(items, records, trial)
    return {scorer: tuple(values.get(item, math.nan) for item in items) for scorer, values in by_item.items()}, by_set


def _refuse_others(items: Sequence[int], records: StudyRecords, trial: StoredTrial) -> None:
    """Refuse items that the study's suite does not have, or fewer than a trial that was not stopped has rendered.

    Raises:
        StudyChangedError: the items are others.
    """
    count = len(records.study.spec.suite.items())
    whole = trial.state == "complete" and not trial.estimated and items
    if (whole and len(items) != count) or (items and not 0 <= min(items) <= max(items) < count):
        raise StudyChangedError(
            f"trial {trial.number} of study {records.study.name!r} has {len(items)} renders, and the suite of its spec "
            f"has {count} images: the database was changed by something else; restore it from a backup"
        )


def stored_files(records: StudyRecords) -> dict[int, frozenset[str]]:
    """Return number -> names of the PNG files of its renders, of trials that have any."""
    query = (
        sa.select(tables.trials.c.number, tables.renders.c.file)
        .join(tables.renders, tables.renders.c.trial_id == tables.trials.c.id)
        .where(tables.trials.c.study_id == records.study.id, tables.renders.c.file.is_not(None))
    )
    found: dict[int, set[str]] = {}
    with records.database.engine.connect() as connection:
        for row in connection.execute(query):
            found.setdefault(row.number, set()).add(row.file)
    return {number: frozenset(files) for number, files in found.items()}


def numbers_with_set_scores(records: StudyRecords) -> frozenset[int]:
    """Return the numbers of trials with scores of a whole set. Their features must not be removed."""
    query = (
        sa.select(tables.trials.c.number)
        .join(tables.scores, tables.scores.c.trial_id == tables.trials.c.id)
        .where(tables.trials.c.study_id == records.study.id, tables.scores.c.item.is_(None))
        .distinct()
    )
    with records.database.engine.connect() as connection:
        return frozenset(connection.execute(query).scalars())


def drop_files(records: StudyRecords, trial: StoredTrial) -> list[str]:
    """Remove the names of the PNG files of a trial's renders, and return them. The files themselves stay."""
    with records.database.write() as connection:
        query = sa.select(tables.renders.c.file).where(tables.renders.c.trial_id == trial.id)
        files = [file for file in connection.execute(query).scalars() if file is not None]
        connection.execute(tables.renders.update().where(tables.renders.c.trial_id == trial.id).values(file=None))
    return files
