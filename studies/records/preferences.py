"""What votes make of the trials of a study: stored in place of what was there, in our tables and in Optuna's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from studies.records import tables
from studies.records.judgements import load_judgements
from studies.records.optuna_tables import replace_values
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords, lock_study
from studies.records.values import Gain, StoredTrial
from studies.records.votes import Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTrial:
    """A complete trial as the votes have it."""

    trial: StoredTrial  # as it was read
    preference: float
    objectives: Mapping[str, float]  # in the study's order
    gains: Mapping[str, Gain]
    errors: Mapping[str, float]


def store_judged(
    records: StudyRecords, optuna_study_id: int, scorer: str, votes: Sequence[Vote], judged: Sequence[JudgedTrial]
) -> bool:
    """Store what votes make of trials; False, and nothing is stored, where something has changed since.

    That is the votes, the gains and standard errors of a trial, which its worker may have stored, or the study's name.

    Args:
        scorer: the name of the preference among the study's scorers.
        votes: that `judged` follows from.
    """
    with records.database.write() as connection:
        name = lock_study(connection, records.study)
        now = {trial.id: trial for trial in load_trials(records)}
        changed = any(_differs(each.trial, now.get(each.trial.id)) for each in judged)
        if changed or name != records.study.name or load_judgements(records) != list(votes):
            return False
        for trial in judged:
            _store(connection, scorer, trial)
        values = {trial.trial.number: list(trial.objectives.values()) for trial in judged}
        replace_values(connection, optuna_study_id, values)
    return True


def _differs(read: StoredTrial, now: StoredTrial | None) -> bool:
    """Return whether something else was stored of a trial that is still there."""
    return now is not None and (read.gains, read.errors) != (now.gains, now.errors)


def _store(connection: Connection, scorer: str, trial: JudgedTrial) -> None:
    gains = {name: gain.stored for name, gain in trial.gains.items()}
    connection.execute(
        tables.trials.update()
        .where(tables.trials.c.id == trial.trial.id)
        .values(objectives=dict(trial.objectives), gains=gains, errors=dict(trial.errors))
    )
    connection.execute(
        tables.scores.update()
        .where(
            tables.scores.c.trial_id == trial.trial.id, tables.scores.c.scorer == scorer, tables.scores.c.item.is_(None)
        )
        .values(value=trial.preference)
    )
