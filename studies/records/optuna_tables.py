"""Direct access to Optuna's own tables, where its storage would be slow: it takes a transaction for each value.

To find the running trials, every worker would read all that these trials hold between any two of its own. A trial's
twenty-odd parameters would be as many round trips to a server, while every other worker waits. A note of the dashboard
would read all notes of the study each time, and an attribute of a study those of all studies. The tables are Optuna's,
which checks their version when the database is opened. The form of a note is optuna-dashboard's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from sqlalchemy import Connection

from studies.files.artifacts import study_sheet_attributes
from studies.records.database import Database

NOTE_LETTERS = 2045  # of a piece, as optuna-dashboard cuts them
NOTE_PIECES = 64  # more than any note of ours has
STUDY_NOTE = "dashboard:"  # what the keys of a study's own note begin with
FIGURE = "dashboard:plot_data:"  # what the keys of a figure begin with
NOTE_BEGINS = "[mergetune]: # (mergetune writes this part anew: yours begins below its end)"  # shown by no Markdown
NOTE_ENDS = "[mergetune-end]: # (your own notes may follow)"
TRIAL_NAME = "name"  # the user attribute of a trial that says what it is

_studies = sa.table("studies", *map(sa.column, ("study_id", "study_name")))
_trials = sa.table("trials", *map(sa.column, ("trial_id", "number", "study_id", "state")))
_params = sa.table("trial_params", *map(sa.column, ("trial_id", "param_name", "param_value", "distribution_json")))
_values = sa.table("trial_values", *map(sa.column, ("trial_id", "objective", "value")))
_user_attributes = sa.table("study_user_attributes", *map(sa.column, ("study_id", "key", "value_json")))
_trial_attributes = sa.table("trial_user_attributes", *map(sa.column, ("trial_id", "key", "value_json")))
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


def user_attributes(database: Database, key: str) -> dict[str, Any]:
    """Return name -> value of a user attribute, for the studies that have it in Optuna."""
    query = (
        sa.select(_studies.c.study_name, _user_attributes.c.value_json)
        .join_from(_studies, _user_attributes, _studies.c.study_id == _user_attributes.c.study_id)
        .where(_user_attributes.c.key == key)
        .order_by(_studies.c.study_id)
    )
    with database.engine.connect() as connection:
        return {row.study_name: json.loads(row.value_json) for row in connection.execute(query)}


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


def replace_values(connection: Connection, optuna_study_id: int, values: Mapping[int, Sequence[float]]) -> None:
    """Replace the values of finished trials, which Optuna itself never changes; those that have none keep none.

    Processes that have read a trial from Optuna's storage keep the values that it had then.

    Args:
        values: number of a trial -> a finite value for each objective, in their order.
    """
    found = sa.select(_trials.c.number, _trials.c.trial_id).where(_trials.c.study_id == optuna_study_id)
    for row in connection.execute(found).all():
        for index, value in enumerate(values.get(row.number, ())):
            this = sa.and_(_values.c.trial_id == row.trial_id, _values.c.objective == index)
            connection.execute(_values.update().where(this).values(value=value))


def store_note(database: Database, optuna_study_id: int, trial_id: int, body: str) -> None:
    """Write a trial's note for the dashboard in place of the last one, as optuna-dashboard's `save_note` does.

    Raises:
        ValueError: it is longer than any note should be.
    """
    if len(body) > NOTE_PIECES * NOTE_LETTERS:
        raise ValueError(f"a note of {len(body)} letters: at most {NOTE_PIECES * NOTE_LETTERS} are expected")
    with database.write() as connection:
        # Two workers may describe one trial at the same moment: on a server the second waits here for the first.
        connection.execute(sa.select(_trials.c.trial_id).where(_trials.c.trial_id == trial_id).with_for_update())
        _write_note(connection, optuna_study_id, f"dashboard:{trial_id}:", body)


def store_part_of_study_note(database: Database, optuna_study_id: int, part: str) -> None:
    """Write our part of a study's note for the dashboard, above what people wrote there, which stays.

    A note that is longer than any of ours is not touched.

    Args:
        part: Markdown, in place of our part before.
    """
    with database.write() as connection:
        _lock_study(connection, optuna_study_id)
        before = _read_study_note(connection, optuna_study_id)
        kept = _without_our_part(before)
        body = "\n\n".join([NOTE_BEGINS, part.strip("\n"), NOTE_ENDS, *([kept] if kept else [])])
        fits = max(len(before) + 1, len(body)) <= NOTE_PIECES * NOTE_LETTERS
        if fits and body != before:  # each version keeps pages that are open from saving theirs
            _write_note(connection, optuna_study_id, STUDY_NOTE, body)


def _without_our_part(note: str) -> str:
    """Return what people wrote into a study's note. A part that has lost its end is theirs."""
    before, begins, rest = note.partition(NOTE_BEGINS)
    _, ends, after = rest.partition(NOTE_ENDS)
    if not (begins and ends):
        return note.strip("\n")
    return "\n\n".join(part for part in (before.strip("\n"), after.strip("\n")) if part)


def store_figures(database: Database, optuna_study_id: int, names: str, figures: Mapping[str, str]) -> None:
    """Write figures for the dashboard in place of the last ones, as its `save_plotly_graph_object` does, but whole.

    That writes piece after piece, and a page that asks meanwhile gets what is no JSON.

    Args:
        names: what the names of all these figures begin with; letters, digits, - and _ only.
        figures: the rest of the name -> a figure of plotly's as JSON.
    """
    rows = [
        {
            "study_id": optuna_study_id,
            "key": f"{FIGURE}{names}{name}:{start // NOTE_LETTERS}",
            "value_json": json.dumps(figure[start : start + NOTE_LETTERS]),
        }
        for name, figure in figures.items()
        for start in range(0, len(figure), NOTE_LETTERS)
    ]
    ours = _attributes.c.key.startswith(f"{FIGURE}{names}", autoescape=True)
    with database.write() as connection:
        _lock_study(connection, optuna_study_id)
        connection.execute(_attributes.delete().where(_attributes.c.study_id == optuna_study_id, ours))
        if rows:
            connection.execute(_attributes.insert(), rows)


def rename_optuna_study(connection: Connection, name: str, new: str, sheets: Sequence[str]) -> None:
    """Rename a study in the transaction that renames ours, and forget its contact sheets, which have its name.

    Args:
        sheets: names of their files.
    """
    found = connection.execute(sa.select(_studies.c.study_id).where(_studies.c.study_name == name)).scalar()
    if found is None:  # deleted in the dashboard
        return
    connection.execute(_studies.update().where(_studies.c.study_id == found).values(study_name=new))
    keys = [key for file in sheets for key in study_sheet_attributes(file, "")]
    this = _attributes.c.study_id == found
    connection.execute(_attributes.delete().where(this, _attributes.c.key.in_(keys)))


def _lock_study(connection: Connection, optuna_study_id: int) -> None:
    """Let nobody else who calls this change what belongs to the study until the transaction ends, on a server."""
    query = sa.select(_studies.c.study_id).where(_studies.c.study_id == optuna_study_id)
    connection.execute(query.with_for_update())


def store_trial_names(database: Database, optuna_study_id: int, names: Mapping[int, str]) -> None:
    """Give the trials that have no name theirs, as a user attribute; those that have one keep it.

    Args:
        names: number -> name.
    """
    named = sa.select(_trial_attributes.c.trial_id).where(_trial_attributes.c.key == TRIAL_NAME)
    nameless = sa.select(_trials.c.trial_id, _trials.c.number).where(
        _trials.c.study_id == optuna_study_id, _trials.c.trial_id.not_in(named)
    )
    with database.engine.connect() as connection:
        if not any(row.number in names for row in connection.execute(nameless)):
            return
    with database.write() as connection:
        _lock_study(connection, optuna_study_id)
        found = {row.trial_id: names[row.number] for row in connection.execute(nameless) if row.number in names}
        rows = [{"trial_id": key, "key": TRIAL_NAME, "value_json": json.dumps(name)} for key, name in found.items()]
        if rows:
            connection.execute(_trial_attributes.insert(), rows)


def _read_study_note(connection: Connection, optuna_study_id: int) -> str:
    keys = [f"{STUDY_NOTE}note_str:{index}" for index in range(NOTE_PIECES)]
    query = sa.select(_attributes.c.key, _attributes.c.value_json)
    rows = connection.execute(query.where(_attributes.c.study_id == optuna_study_id, _attributes.c.key.in_(keys)))
    found = {row.key: json.loads(row.value_json) for row in rows}
    return "".join(found.get(key, "") for key in keys)


def _write_note(connection: Connection, optuna_study_id: int, prefix: str, body: str) -> None:
    """Replace a note.

    Args:
        prefix: what the keys of its version and its pieces begin with.
    """
    version, of_study = f"{prefix}note_ver", _attributes.c.study_id == optuna_study_id
    keys = [f"{prefix}note_str:{index}" for index in range(NOTE_PIECES)]
    query = sa.select(_attributes.c.value_json).where(of_study, _attributes.c.key == version)
    before = connection.execute(query).scalar()
    connection.execute(_attributes.delete().where(of_study, _attributes.c.key.in_([version, *keys])))
    pieces = [body[start : start + NOTE_LETTERS] for start in range(0, len(body), NOTE_LETTERS)]
    values = {version: json.loads(before or "0") + 1} | dict(zip(keys, pieces, strict=False))
    rows = [{"study_id": optuna_study_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
    connection.execute(_attributes.insert(), rows)
