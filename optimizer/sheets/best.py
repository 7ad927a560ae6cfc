"""The contact sheet of a study's parents beside its best trial.

What the final chose is shown as the final rendered it, on prompts and seeds that the search never saw; otherwise the
renders of the search are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimizer.rendering.contact_sheet import row_captions
from optimizer.sheets.comparison import Sheet, column_heading, opened_renders, stored_images
from optimizer.trial.best import REASONS, Best, best_of, load_results, merges_by_rank, told_gains
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import complete_parents
from studies.files.artifacts import Artifacts
from studies.records.finals import Final
from studies.records.kept_renders import final_renders
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A trial with its pictures, in item order."""

    trial: StoredTrial
    gains: Mapping[str, Gain]
    held_out: bool  # whether the gains are those of the final
    images: Sequence[Tensor]  # uint8 [3, height, width] each; empty where they are not stored


def save_best_sheet(records: StudyRecords, artifacts: Artifacts) -> str | None:
    """Draw the parents and the best side by side; return where the sheet is, None where no renders are stored.

    Raises:
        ArtifactError: the artifact store fails.
    """
    sheet, study = best_sheet(records, artifacts), records.study
    if sheet is None:
        return None
    return artifacts.save_contact_sheet(study.name, study.key, "best", sheet.draw())


def best_sheet(records: StudyRecords, artifacts: Artifacts) -> Sheet | None:
    """Return the parents, and the best merge or the best whose renders are stored; None where not even theirs are.

    Raises:
        ArtifactError: the artifact store fails.
    """
    study, (trials, final) = records.study, load_results(records)
    objective = Objective.of_study(study)
    best = best_of(trials, final, objective)
    if best is None:
        return None
    columns, suite = _of_final(records, artifacts, best, trials, final), study.spec.held_out
    title = f"{study.name}, the final"
    if not columns:
        columns = _of_search(records, artifacts, best, trials, final, objective)
        suite, title = study.spec.suite, study.name
    if not columns:
        return None
    drawn = [(_heading(study, best, each, objective), each.images) for each in columns]
    return Sheet(title=title, columns=drawn, captions=row_captions(suite.items()))


def _heading(study: StoredStudy, best: Best, column: _Column, objective: Objective) -> str:
    """Return what stands above a column; a merge that is not the best is there because its renders are stored."""
    role = best.role(column.trial.number)
    if not role and column.trial.origin.parent is None:
        role = REASONS["observed"].text
    return column_heading(study, column.trial, column.gains, objective, role, held_out=column.held_out)


def _of_final(
    records: StudyRecords, artifacts: Artifacts, best: Best, trials: Sequence[StoredTrial], final: Final | None
) -> list[_Column]:
    """Return the parents and the best merge as the final rendered them; nothing where one of them is not stored."""
    merge = best.merge
    if final is None or merge is None or not (best.held_out and best.by == "final"):
        return []
    by_number = {trial.number: trial for trial in trials}
    columns = [
        _Column(
            trial=by_number[finalist.number],
            gains=finalist.held_out,
            held_out=True,
            images=opened_renders(artifacts, final_renders(records.study, artifacts, finalist.number)),
        )
        for finalist in final.finalists
        if finalist.is_parent or finalist.number == merge.number
    ]
    return columns if all(column.images for column in columns) else []


def _of_search(
    records: StudyRecords,
    artifacts: Artifacts,
    best: Best,
    trials: Sequence[StoredTrial],
    final: Final | None,
    objective: Objective,
) -> list[_Column]:
    """Return the parents and a merge as the search rendered them: the best whose renders are stored."""

    def column(trial: StoredTrial) -> _Column:
        gains, held_out = told_gains(trial, best, final)
        return _Column(trial=trial, gains=gains, held_out=held_out, images=stored_images(records, artifacts, trial))

    parents = [column(trial) for trial in complete_parents(trials).values()]
    if not all(each.images for each in parents):
        return []
    merges = merges_by_rank(best, trials, objective)
    shown = next((each for each in map(column, merges) if each.images), None)
    if shown is None:
        return [] if merges else parents
    return [*parents, shown]
