"""Starts of studies that were cut off while they copied trials: what they left in Optuna's tables, and their files."""

from __future__ import annotations

import optuna
import sqlalchemy as sa

from studies.files.artifacts import Artifacts
from studies.records import tables
from studies.records.database import Database
from studies.records.optuna_studies import BEGINNING
from studies.records.optuna_tables import user_attributes


def cut_off_starts(database: Database) -> dict[str, str]:
    """Return name -> key of studies that Optuna has, and that we have not.

    Only under the database's lock are they surely cut off: without it, one may still be starting.
    """
    begun = {name: str(key) for name, key in user_attributes(database, BEGINNING).items()}
    if not begun:
        return {}
    with database.engine.connect() as connection:
        known = set(connection.execute(sa.select(tables.studies.c.key)).scalars())
    return {name: key for name, key in begun.items() if key not in known}


def remove_cut_off_start(database: Database, artifacts: Artifacts, name: str, key: str) -> None:
    """Remove what a start left that was cut off, or a deletion.

    Raises:
        ArtifactError: a file cannot be removed; then Optuna's part, which names the key, stays too.
    """
    for file in list(artifacts.store.files(f"studies/{key}/")):
        artifacts.store.remove(file.name)
    for shown in artifacts.shown_files(name, key):
        artifacts.store.remove(shown)
    if name in optuna.get_all_study_names(storage=database.storage):  # else it was deleted in the dashboard
        optuna.delete_study(study_name=name, storage=database.storage)
