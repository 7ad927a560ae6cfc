"""Make room in an artifact store: remove renders that nobody will look at again, and files that no trial refers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from optimizer.trial.best import load_best
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials
from optimizer.work.leftovers import orphans_among
from studies.files.artifacts import Artifacts
from studies.files.stores import StoredFile
from studies.records import stored_renders, stored_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

Keep = Literal["best", "none"]  # best: parents and the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """What of a study's files can go."""

    trials: tuple[StoredTrial, ...]  # whose renders are dropped
    renders: tuple[StoredFile, ...]  # of these trials
    final: tuple[StoredFile, ...]  # renders of the final
    orphans: tuple[StoredFile, ...]  # left by workers that died or were taken for dead

    @property
    def bytes(self) -> int:
        """How much room they take."""
        return sum(file.bytes for file in (*self.renders, *self.final, *self.orphans))


def find_waste(records: StudyRecords, artifacts: Artifacts, objective: Objective, keep: Keep) -> Waste:
    """Find what can go, while workers may be at work.

    The files are listed before the database is read. So a file belongs to a trial that is recorded by now, or to one
    that the worker in the file's name still works on, or to no trial.

    Raises:
        ArtifactError: the store cannot be listed.
    """
    files = {file.name: file for file in artifacts.store.files(f"studies/{records.study.key}/")}
    trials = stored_trials.load_trials(records)
    wanted = () if keep == "none" else _looked_at(records, trials, objective)
    render_files = stored_renders.stored_files(records)
    unwanted = render_files.keys() - {trial.number for trial in wanted}
    dropped = tuple(trial for trial in trials if trial.number in unwanted and trial.state == "complete")
    renders = [name for trial in dropped for name in sorted(render_files[trial.number])]
    folder = f"{artifacts.of_final(records.study.key).folder}/"
    final = [file for name, file in files.items() if keep == "none" and name.startswith(folder)]
    orphans = orphans_among(files, records, artifacts, trials)
    return Waste(
        trials=dropped,
        renders=tuple(files[name] for name in renders if name in files),
        final=tuple(final),
        orphans=tuple(file for name, file in files.items() if name in orphans),
    )


def _looked_at(records: StudyRecords, trials: Sequence[StoredTrial], objective: Objective) -> tuple[StoredTrial, ...]:
    """Return the trials whose renders are looked at: the parents, the best observed, and the final's choice."""
    best = load_best(records, objective)
    chosen = () if best is None else (best.trial,)
    return (*parent_trials(trials).values(), *best_trials(trials, objective), *chosen)


def remove_waste(records: StudyRecords, artifacts: Artifacts, waste: Waste) -> None:
    """Remove the files' names from the database, and then the files: no name is ever left without its file.

    Raises:
        ArtifactError: a file cannot be removed.
    """
    for trial in waste.trials:
        stored_renders.drop_files(records, trial)
    for file in (*waste.renders, *waste.final, *waste.orphans):
        artifacts.store.remove(file.name)
