"""Studies as wholes: deleted, renamed and cloned, in our tables, in Optuna's, and in the artifact store.

Each has one transaction that decides. What comes before it may be done again, and what follows it is tidied up by
whoever looks next: a deletion that was cut off leaves what a start leaves that was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from basics.messages import counted
from studies.errors import StudyBusyError
from studies.files.artifacts import FEATURES, SHEET, Artifacts
from studies.records import tables
from studies.records.copied_judgements import copy_judgements
from studies.records.copied_trials import CopiedTrial, CopiedTrials
from studies.records.cut_off_starts import remove_cut_off_start
from studies.records.optuna_studies import BEGINNING, optuna_study, optuna_study_id
from studies.records.optuna_tables import rename_optuna_study
from studies.records.stored_renders import files_of, load_renders, load_scores
from studies.records.stored_studies import create_study, require_new, reread
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial, TrialResult
from studies.records.workers import live_workers, workers_at
from studies.spec.suite import SuiteSettings
from studies.system.advice import advised


def require_idle(records: StudyRecords) -> None:
    """Refuse a study that workers are at.

    Raises:
        StudyBusyError: they are.
    """
    database, study = records.database, records.study
    at_work = workers_at(database, live_workers(database))[study.id]
    if at_work:
        stop = advised(f'study stop "{study.name}"', database.url)
        raise StudyBusyError(
            f"{counted(at_work, 'worker is', 'workers are')} at work on study {study.name!r}: stop it with `{stop}`, "
            "and try again when its trials in progress are finished"
        )


# ----------------------------------------------------------------------------------------- deleting


def delete_study(records: StudyRecords, artifacts: Artifacts) -> None:
    """Delete a study with its trials, scores, renders and pictures.

    Raises:
        StudyBusyError: workers are at it.
        StudyMissingError: it was deleted meanwhile.
        ArtifactError: a file cannot be removed; the study is gone, and the next start or `study doctor` tries again.
    """
    database = records.database
    with database.exclusive():
        records = reread(records)
        study = records.study
        require_idle(records)
        if study.name in optuna.get_all_study_names(storage=database.storage):
            optuna_study(records).set_user_attr(BEGINNING, study.key)  # without ours, it is a start that was cut off
        with database.write() as connection:
            connection.execute(tables.studies.delete().where(tables.studies.c.id == study.id))
        remove_cut_off_start(database, artifacts, study.name, study.key)


# ----------------------------------------------------------------------------------------- renaming


def rename_study(records: StudyRecords, artifacts: Artifacts, name: str) -> StudyRecords:
    """Give a study another name; its key, and with it the files of its trials, stay as they are.

    Raises:
        StudyBusyError: workers are at it.
        StudyExistsError: the name is taken, if only by this study.
        StudyMissingError: the study was deleted meanwhile, or its trials in the dashboard.
        ArtifactError: the store fails; the study may have either name, and is whole.
    """
    database = records.database
    with database.exclusive():
        records = reread(records)
        study = records.study
        require_idle(records)
        require_new(database, name)
        optuna_study_id(records)
        former = artifacts.shown_files(study.name, study.key)
        renamed = {file: f"{name}{file.removeprefix(study.name)}" for file in former}
        for file, new in renamed.items():
            artifacts.store.write(new, artifacts.store.read(file))
        spec = study.spec.model_copy(update={"study": name})
        with database.write() as connection:
            update = tables.studies.update().where(tables.studies.c.id == study.id)
            connection.execute(update.values(name=name, spec=spec.to_json()))
            rename_optuna_study(connection, study.name, name, former)
        for file, new in renamed.items():
            if file.casefold() != new.casefold():  # else it is one file where capitals do not count
                artifacts.store.remove(file)
    return reread(records)


# ------------------------------------------------------------------------------------------ cloning


def clone_study(records: StudyRecords, artifacts: Artifacts, name: str, *, trials: bool) -> StudyRecords:
    """Store a study with the settings and parents of another one, paused.

    Args:
        trials: whether it begins with the other's finished trials, with their scores, files and votes.

    Raises:
        StudyExistsError: the name is taken.
    """
    spec = records.study.spec.model_copy(update={"study": name})
    study = optuna_study(records)
    whole = _finished(records, study) if trials else []
    first = CopiedTrials(*_as_copied(records, study, whole, artifacts)) if trials else None
    clone = create_study(
        records.database,
        spec,
        records.study.parents,
        ["maximize" if each is StudyDirection.MAXIMIZE else "minimize" for each in study.directions],
        study.metric_names or [],
        first,
        like=records.study,
        status="paused",
    )
    copy_judgements(records, clone, {trial.number: number for number, trial in enumerate(whole)})
    return clone


def _finished(records: StudyRecords, study: optuna.Study) -> list[StoredTrial]:
    """Return the finished trials of a study, in the order in which its clone has them."""
    told = {each.number for each in study.get_trials(deepcopy=False)}
    return [trial for trial in load_trials(records) if trial.is_whole and trial.number in told]


def _as_copied(
    records: StudyRecords, study: optuna.Study, whole: Sequence[StoredTrial], artifacts: Artifacts
) -> tuple[list[CopiedTrial], dict[str, BaseDistribution], Artifacts, SuiteSettings]:
    """Return what `CopiedTrials` takes: the finished trials of a study as those of its clone."""
    told = {each.number: each for each in study.get_trials(deepcopy=False)}
    distributions: dict[str, BaseDistribution] = {}
    for trial in whole:
        distributions |= told[trial.number].distributions
    copied = [_copied(records, artifacts, trial, told[trial.number]) for trial in whole]
    return copied, distributions, artifacts, records.study.spec.suite


def _copied(records: StudyRecords, artifacts: Artifacts, trial: StoredTrial, told: FrozenTrial) -> CopiedTrial:
    by_item, by_set = load_scores(records, trial)
    renders = load_renders(records, trial)
    files = artifacts.of_trial(records.study.key, trial.number, trial.worker_id)
    present = files.files()
    return CopiedTrial(
        origin=trial.origin,
        source=trial.source or f"{records.study.name} trial {trial.number}",
        recipe=trial.recipe,
        params=told.params or None,
        result=TrialResult(
            objectives=trial.objectives,
            constrained=trial.constrained,
            image_scores={name: tuple(map(float, values)) for name, values in by_item.items()},
            set_scores=dict(by_set),
            pixels_sha256=tuple(render.pixels_sha256 for render in renders),
            seconds=trial.seconds,
            machine=trial.machine,
            batch_limits=trial.batch_limits,
        ),
        constraints=told.constraints,
        files=files,
        renders={item: file for item, file in files_of(renders).items() if file in present},
        has_contact_sheet=trial.contact_sheet is not None and SHEET in present,
        features=files.load_features if FEATURES in present else dict,
        worker_id=trial.worker_id,
        started_at=trial.started_at,
        finished_at=trial.finished_at,
    )
