"""What killed processes leave behind in a database and its artifact store, and which of it is surely dead.

Three things are: the entry of a dead worker that holds no trial; files of that worker, or in the folder of a finished
trial, which no trial names; and what a start left that was cut off while it copied trials. The next worker removes
them. Other files that no trial has are left to people: they may belong to a copy of the database, or to a newer backup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath

from studies.errors import ArtifactError
from studies.files.artifacts import FEATURES, WORKER_LETTERS, Artifacts, stored_name
from studies.records import stored_renders, stored_trials, workers
from studies.records.cut_off_starts import cut_off_starts, remove_cut_off_start
from studies.records.database import Database
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial

_log = logging.getLogger(__name__)


def remove_leftovers(records: StudyRecords, artifacts: Artifacts, alive: Callable[[], Collection[str]]) -> None:
    """Remove what is surely dead: of this study, and of starts that were cut off. Without any, no file is listed.

    A store that does not let files be listed or removed keeps them, and the entries that tell whose they are.

    Args:
        alive: returns the ids of workers that are not known to be dead.
    """
    dead = workers.dead_workers(records.database, alive, records.study)
    try:
        if dead:
            _remove_files(records, artifacts, dead)
        remove_cut_off_starts(records.database, artifacts)
    except ArtifactError as error:
        _log.warning("what killed workers have left cannot be removed: %s", error)
        return
    for worker_id, seen_at in dead.items():
        workers.remove_dead_worker(records.database, worker_id, seen_at)


def _remove_files(records: StudyRecords, artifacts: Artifacts, dead: Collection[str]) -> None:
    names = [file.name for file in artifacts.store.files(f"studies/{records.study.key}/")]
    trials = stored_trials.load_trials(records)  # after the files: whatever is listed has its trial by then
    for name in surely_dead(orphans_among(names, records, artifacts, trials), records.study, artifacts, trials, dead):
        artifacts.store.remove(name)


def remove_cut_off_starts(database: Database, artifacts: Artifacts) -> None:
    """Remove the files and Optuna's trials of starts that were cut off.

    Raises:
        ArtifactError: a file cannot be removed.
    """
    if cut_off_starts(database):
        with database.exclusive():  # who starts a study holds the lock until it is stored
            for name, key in cut_off_starts(database).items():
                remove_cut_off_start(database, artifacts, name, key)


def orphans_among(
    names: Iterable[str],
    records: StudyRecords,
    artifacts: Artifacts,
    trials: Sequence[StoredTrial],
) -> frozenset[str]:
    """Return those files of a study that no trial has, and that no worker is about to record.

    Args:
        names: of files, listed before the trials were read.
    """
    known = _known_files(records, artifacts, trials)
    running = [_folder(records.study, artifacts, trial) for trial in trials if trial.state == "running"]
    kept = (*running, f"{artifacts.of_final(records.study.key).folder}/")  # the final's are tidied up by the final
    return frozenset(name for name in names if name not in known and not name.startswith(kept))


def surely_dead(
    orphans: Iterable[str],
    study: StoredStudy,
    artifacts: Artifacts,
    trials: Sequence[StoredTrial],
    dead: Collection[str],
) -> frozenset[str]:
    """Return those of a study's orphans that a process left which is dead.

    Args:
        dead: ids of dead workers.
    """
    finished = {_folder(study, artifacts, trial) for trial in trials if trial.state != "running"}
    letters = {worker_id[:WORKER_LETTERS] for worker_id in dead}
    return frozenset(name for name in orphans if _is_of(name, letters) or _folder_of(name) in finished)


def _is_of(name: str, letters: Collection[str]) -> bool:
    """Return whether a file was written by one of these workers, by the name of its trial's folder."""
    return PurePosixPath(_folder_of(name)).name.partition("-")[2] in letters


def _folder_of(name: str) -> str:
    """Return the folder of a file's trial: studies/KEY/NUMBER-WORKER/. A part folder lies within it."""
    return f"{PurePosixPath(*PurePosixPath(name).parts[:3])}/"


def _known_files(records: StudyRecords, artifacts: Artifacts, trials: Sequence[StoredTrial]) -> frozenset[str]:
    """Return the names of the files that complete trials refer to."""
    known, render_files = set[str](), stored_renders.stored_files(records)
    for trial in trials:
        if trial.state == "complete":
            known.update(render_files.get(trial.number, ()))
            known.add(f"{_folder(records.study, artifacts, trial)}{FEATURES}")
            if trial.contact_sheet is not None:
                known.add(stored_name(trial.contact_sheet))
    return frozenset(known)


def _folder(study: StoredStudy, artifacts: Artifacts, trial: StoredTrial) -> str:
    return f"{artifacts.of_trial(study.key, trial.number, trial.worker_id).folder}/"
