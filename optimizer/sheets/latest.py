"""The contact sheet of a study's parents beside the best so far, while the study runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from optimizer.rendering.contact_sheet import row_captions, thumbnail
from optimizer.sheets.comparison import Sheet, column_heading, stored_images
from optimizer.trial.best import Best, best_of, merges_by_rank, told_gains
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import complete_parents
from optimizer.trial.repeats import final_counted_once
from studies.files.artifacts import Artifacts
from studies.records.finals import Final, load_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSheet:
    """What `LatestSheet` has drawn."""

    where: str  # the picture: a path, or a URL in a bucket
    trials: tuple[int, ...]  # that it shows, as it shows them: the parents, then the best merge


class LatestSheet:
    """The picture of the parents beside the best so far, which is drawn anew after every trial.

    Renders are read once, and kept as thumbnails while they are shown.
    """

    def __init__(self, records: StudyRecords, artifacts: Artifacts, objective: Objective) -> None:
        self._records, self._artifacts, self._objective = records, artifacts, objective
        self._thumbnails: dict[int, list[Tensor]] = {}  # trial -> its pictures

    def draw(self, trials: Sequence[StoredTrial]) -> DrawnSheet | None:
        """Draw and store the picture; None where renders are not stored.

        Args:
            trials: those of the study so far.

        Raises:
            ArtifactError: the artifact store fails.
        """
        sheet, study = self.sheet(trials), self._records.study
        if sheet is None:
            return None
        drawn = sheet.draw(thumbnails=True)
        where = self._artifacts.save_contact_sheet(study.name, study.key, "latest", drawn)
        return DrawnSheet(where=where, trials=tuple(self._thumbnails))

    def sheet(self, trials: Sequence[StoredTrial]) -> Sheet | None:
        """Return the parents, and the best merge whose renders are stored; None where renders are not stored.

        Raises:
            ArtifactError: the artifact store fails.
        """
        study, parents = self._records.study, complete_parents(trials).values()
        if not all(map(self._pictures, parents)):
            return None
        final = self._final(trials)
        best = best_of(trials, final, self._objective)
        if best is None:
            return None
        merge = next(filter(self._pictures, merges_by_rank(best, trials, self._objective)), None)
        if merge is None and best.merge_is_best:
            return None
        shown = [*parents, *([] if merge is None else [merge])]
        columns = [(self._heading(trial, best, final), self._pictures(trial)) for trial in shown]
        self._thumbnails = {trial.number: self._thumbnails[trial.number] for trial in shown}
        finished = sum(trial.state != "running" for trial in trials)
        return Sheet(
            title=f"{study.name}, after {finished} of {study.spec.budget.trials} trials",
            columns=columns,
            captions=row_captions(study.spec.suite.items()),
        )

    def _final(self, trials: Sequence[StoredTrial]) -> Final | None:
        final = load_final(self._records)
        return None if final is None else final_counted_once(self._records, final, trials)

    def _heading(self, trial: StoredTrial, best: Best, final: Final | None) -> str:
        gains, held_out = told_gains(trial, best, final)
        role = best.role(trial.number)
        return column_heading(self._records.study, trial, gains, self._objective, role, held_out=held_out)

    def _pictures(self, trial: StoredTrial) -> list[Tensor]:
        """Return a trial's renders as thumbnails, uint8 [3, height, width] each; none where one is not stored."""
        if not self._thumbnails.get(trial.number):
            study = self._records.study
            pictures = (len(study.parents) + 1) * len(study.spec.suite.items())
            images = stored_images(self._records, self._artifacts, trial)
            self._thumbnails[trial.number] = [thumbnail(image, pictures) for image in images]
        return self._thumbnails[trial.number]
