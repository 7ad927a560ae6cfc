"""Study databases as older versions left them."""

from __future__ import annotations

import optuna
from alembic import command

from studies.records.database import _alembic


def make_older_database(url: str, revision: str) -> None:
    """Make the tables of Optuna, and ours as they were at a revision of the schema; no study is in them."""
    storage = optuna.storages.RDBStorage(url)
    with storage.engine.begin() as connection:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    storage.remove_session()
    storage.engine.dispose()
