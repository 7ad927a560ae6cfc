"""Make room in an artifact store: remove renders that nobody will look at again, and files that no trial refers to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials
from studies.files.artifacts import FEATURES, Artifacts, stored_name
from studies.files.stores import StoredFile
from studies.records import stored_renders, stored_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial

Keep = Literal["best", "none"]  # best: parents and the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """What of a study's files can go."""

    trials: tuple[StoredTrial, ...]  # whose renders are dropped
    renders: tuple[StoredFile, ...]  # of these trials
    orphans: tuple[StoredFile, ...]  # left by workers that died or were taken for dead

    @property
    def bytes(self) -> int:
        """How much room they take."""
        return sum(file.bytes for file in (*self.renders, *self.orphans))


def find_waste(records: StudyRecords, artifacts: Artifacts, objective: Objective, keep: Keep) -> Waste:
    """Find what can go, while workers may be at work.

    The files are listed before the database is read. So a file belongs to a trial that is recorded by now, or to one
    that the worker in the file's name still works on, or to no trial.

    Raises:
        ArtifactError: the store cannot be listed.
    """
    files = {file.name: file for file in artifacts.store.files(f"studies/{records.study.key}/")}
    trials = stored_trials.load_trials(records)
    wanted = () if keep == "none" else (*parent_trials(trials).values(), *best_trials(trials, objective))
    render_files = stored_renders.stored_files(records)
    unwanted = render_files.keys() - {trial.number for trial in wanted}
    dropped = tuple(trial for trial in trials if trial.number in unwanted and trial.state == "complete")
    renders = [name for trial in dropped for name in sorted(render_files[trial.number])]
    orphans = orphans_among(files, records, artifacts, trials)
    return Waste(
        trials=dropped,
        renders=tuple(files[name] for name in renders if name in files),
        orphans=tuple(file for name, file in files.items() if name in orphans),
    )


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
    running = tuple(_folder(records.study, artifacts, trial) for trial in trials if trial.state == "running")
    return frozenset(name for name in names if name not in known and not name.startswith(running))


def remove_waste(records: StudyRecords, artifacts: Artifacts, waste: Waste) -> None:
    """Remove the files' names from the database, and then the files: no name is ever left without its file.

    Raises:
        ArtifactError: a file cannot be removed.
    """
    for trial in waste.trials:
        stored_renders.drop_files(records, trial)
    for file in (*waste.renders, *waste.orphans):
        artifacts.store.remove(file.name)


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
