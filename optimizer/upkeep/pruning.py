"""Making room in an artifact store: renders that nobody will look at again, and files that no trial refers to."""

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
        return sum(file.bytes for file in (*self.renders, *self.orphans))


def find_waste(records: StudyRecords, artifacts: Artifacts, objective: Objective, keep: Keep) -> Waste:
    """What can go, while workers may be at work.

    The files are listed before the database is read: a file that was there then belongs to a trial that is by now
    recorded, or still runs in the hands of the worker that its name has; or to nobody.
    """
    files = {file.name: file for file in artifacts.store.files(f"studies/{records.study.key}/")}
    rows = stored_trials.load_trials(records)
    kept = () if keep == "none" else (*parent_trials(rows).values(), *best_trials(rows, objective))
    stored = stored_renders.kept_files(records)
    numbers = stored.keys() - {row.number for row in kept}
    dropped = tuple(row for row in rows if row.number in numbers and row.state == "complete")
    renders = [name for row in dropped for name in sorted(stored[row.number])]
    orphans = orphans_among(files, records, artifacts, rows)
    return Waste(
        trials=dropped,
        renders=tuple(files[name] for name in renders if name in files),
        orphans=tuple(file for name, file in files.items() if name in orphans),
    )


def orphans_among(
    names: Iterable[str],
    records: StudyRecords,
    artifacts: Artifacts,
    rows: Sequence[StoredTrial],
) -> frozenset[str]:
    """Those files of a study that no trial has, and no worker is about to give one.

    Args:
        names: of files, listed before the rows were read.
    """
    known = _known_files(records, artifacts, rows)
    running = tuple(_folder(records.study, artifacts, row) for row in rows if row.state == "running")
    return frozenset(name for name in names if name not in known and not name.startswith(running))


def remove_waste(records: StudyRecords, artifacts: Artifacts, waste: Waste) -> None:
    """Forget the files, and then remove them: the database never refers to what is not there."""
    for row in waste.trials:
        stored_renders.drop_files(records, row)
    for file in (*waste.renders, *waste.orphans):
        artifacts.store.remove(file.name)


def _known_files(records: StudyRecords, artifacts: Artifacts, rows: Sequence[StoredTrial]) -> frozenset[str]:
    """What complete trials refer to."""
    known, kept = set[str](), stored_renders.kept_files(records)
    for row in rows:
        if row.state == "complete":
            known.update(kept.get(row.number, ()))
            known.add(f"{_folder(records.study, artifacts, row)}{FEATURES}")
            if row.sheet is not None:
                known.add(stored_name(row.sheet))
    return frozenset(known)


def _folder(study: StoredStudy, artifacts: Artifacts, row: StoredTrial) -> str:
    return f"{artifacts.of_trial(study.key, row.number, row.worker_id).folder}/"
