"""Direct access to Optuna's own tables, where its storage would be slow: it takes a transaction for each value.

To find the running trials, every worker would read all that these trials hold between any two of its own. A trial's
twenty-odd parameters would be as many round trips to a server, while every other worker waits. A note of the dashboard
would read all notes of the study each time. The tables are Optuna's, which checks their version when the database is
opened. The form of a note is optuna-dashboard's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json

from studies.records.database import Database

NOTE_LETTERS = 2045  # of a piece, as optuna-dashboard cuts them
NOTE_PIECES = 64  # more than any note of ours has

_trials = sa.table("trials", *map(sa.column, ("trial_id", "number", "study_id", "state")))
_params = sa.table("trial_params", *map(sa.column, ("trial_id", "param_name", "param_value", "distribution_json")))
_attributes = sa.table("study_system_attributes", *map(sa.column, ("study_id", "key", "value_json")))


def running_trials(database: Database, optuna_study_id: int) -> dict[int, int]:
    """Return number -> id of the trials that are RUNNING for Optuna, by number."""
    running = sa.and_(_trials.c.study_id == optuna_study_id, sa.cast(_trials.c.state, sa.String) == "RUNNING")
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(_trials.c.number, _trials.c.trial_id).where(running))
        return dict(sorted((row.number, row.trial_id) for row in rows))


def count_trials(database: Database, optuna_study_id: int) -> int:
    """Count the trials that were asked for."""
    query = sa.select(sa.func.count()).select_from(_trials).where(_trials.c.study_id == optuna_study_id)
    with database.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def store_params(
    database: Database, trial_id: int, params: Mapping[str, float], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Store the parameters of a running trial that has none yet: all of them, or none."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]
    if rows:
        with database.write() as connection:
            connection.execute(_params.insert(), rows)


def store_note(database: Database, optuna_study_id: int, trial_id: int, body: str) -> None:
    """Write a trial's note for the dashboard in place of the last one, as optuna-dashboard's `save_note` does.

    Raises:
        ValueError: it is longer than any note should be.
    """
    pieces = [body[start : start + NOTE_LETTERS] for start in range(0, len(body), NOTE_LETTERS)]
    if len(pieces) > NOTE_PIECES:
        raise ValueError(f"a note of {len(body)} letters: at most {NOTE_PIECES * NOTE_LETTERS} are expected")
    version = f"dashboard:{trial_id}:note_ver"
    keys = [f"dashboard:{trial_id}:note_str:{index}" for index in range(NOTE_PIECES)]
    of_study = _attributes.c.study_id == optuna_study_id
    with database.write() as connection:
        # Two workers may describe one trial at the same moment: on a server the second waits here for the first.
        connection.execute(sa.select(_trials.c.trial_id).where(_trials.c.trial_id == trial_id).with_for_update())
        query = sa.select(_attributes.c.value_json).where(of_study, _attributes.c.key == version)
        before = connection.execute(query).scalar()
        connection.execute(_attributes.delete().where(of_study, _attributes.c.key.in_([version, *keys])))
        values = {version: json.loads(before or "0") + 1} | dict(zip(keys, pieces, strict=False))
        rows = [
            {"study_id": optuna_study_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()
        ]
        connection.execute(_attributes.insert(), rows)
