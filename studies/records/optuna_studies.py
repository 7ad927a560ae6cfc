"""Optuna's part of a study, in the same database."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from scorers.protocol import Direction
from studies.errors import StudyExistsError, StudyMissingError
from studies.records.database import Database
from studies.records.study_records import StudyRecords

BEGINNING = "mergetune:takes trials over"  # our key, of an Optuna study: without one of ours, its start was cut off


def create_optuna_study(
    database: Database, name: str, directions: Sequence[Direction], names: Sequence[str]
) -> tuple[optuna.Study, str]:
    """Make Optuna's part of a study. What is left of a start that was cut off is replaced.

    Returns:
        The study, and our key for it: that of the start that was cut off, whose files are then replaced.

    Raises:
        StudyExistsError: somebody else made an Optuna study of this name.
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


def optuna_study(records: StudyRecords, sampler: BaseSampler | None = None) -> optuna.Study:
    """Open Optuna's part of a study.

    Args:
        sampler: what proposes trials. Without one Optuna would propose by its default, so none may be asked for.

    Raises:
        StudyMissingError: its trials are gone, deleted in the dashboard.
    """
    with _explained(records):
        return optuna.load_study(study_name=records.study.name, storage=records.database.storage, sampler=sampler)


def optuna_study_id(records: StudyRecords) -> int:
    """Return Optuna's id of a study.

    Raises:
        StudyMissingError: its trials are gone, deleted in the dashboard.
    """
    with _explained(records):
        return int(records.database.storage.get_study_id_from_name(records.study.name))


@contextmanager
def _explained(records: StudyRecords) -> Iterator[None]:
    """Turn what Optuna raises for a study that it does not have into a StudyMissingError."""
    try:
        yield
    except KeyError as error:
        raise StudyMissingError(
            f"the trials of study {records.study.name!r} were deleted in the dashboard: start a study of another name"
        ) from error


def optuna_trials(records: StudyRecords) -> list[FrozenTrial]:
    """Return Optuna's side of every trial that was asked for, by number: parameters, and what the sampler noted.

    Raises:
        StudyMissingError: the trials are gone, deleted in the dashboard.
    """
    return optuna_study(records).get_trials(deepcopy=False)
