"""The words on the contact sheets of a study, and the picture of its parents beside the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from optimizer.rendering.contact_sheet import comparison_sheet, thumbnail
from optimizer.trial.best import best_of
from optimizer.trial.gain_text import gain_text
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import parent_trials
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts
from studies.records import stored_renders
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial
from studies.spec.suite import SuiteSettings

ROWS = 8  # of a sheet, before it gets another table beside the first
WIDEST = 4  # tables


def row_captions(suite: SuiteSettings) -> list[str]:
    """Return what stands beside each item's pictures: the prompt and the seed."""
    return [f"{item.prompt}\nseed {item.seed}" for item in suite.items()]


def tables_for(rows: int) -> int:
    """Return into how many tables side by side the rows of a sheet are divided."""
    return min(WIDEST, -(-rows // ROWS))


def column_heading(
    study: StoredStudy, trial: StoredTrial, gains: Mapping[str, Gain], objective: Objective, role: str = ""
) -> str:
    """Return what stands above a trial's pictures: a parent's file or the trial, what it is, and its gains.

    Args:
        gains: over the better parent; that of the better parent itself is not told.
        role: such as `best`; empty: none.
    """
    letter = trial.origin.parent
    if letter is None:
        title, what = f"trial {trial.number}", trial.title
    else:
        file = next(each.path.stem for each in study.parents if each.letter == letter)
        title, what = f"{letter}: {file}", f"trial {trial.number}"
    told = [name for name in objective.names if name in gains and gains[name].parent != letter]
    gained = [f"{'' if name == SINGLE else f'{name} '}{gain_text(gains[name])}" for name in told]
    return "\n".join([title, f"{what}, {role}" if role else what, *gained])


def stored_images(records: StudyRecords, artifacts: Artifacts, trial: StoredTrial) -> list[Tensor]:
    """Read a trial's renders, uint8 [3, height, width] each; none where one of them is not stored or lost."""
    files = [render.file for render in stored_renders.load_renders(records, trial)]
    return [] if None in files else opened_renders(artifacts, [file for file in files if file is not None])


def opened_renders(artifacts: Artifacts, files: Sequence[str]) -> list[Tensor]:
    """Read renders by their names in the store, uint8 [3, height, width] each; none where one of them is lost."""
    try:
        pictures = [artifacts.open_render(file) for file in files]
    except RenderLostError:
        return []
    return [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]


class LatestSheet:
    """The picture of the parents beside the best so far, which is drawn anew after every trial.

    Renders are read once, and kept as thumbnails while they are shown.
    """

    def __init__(self, records: StudyRecords, artifacts: Artifacts, objective: Objective) -> None:
        self._records, self._artifacts, self._objective = records, artifacts, objective
        self._thumbnails: dict[int, list[Tensor]] = {}  # trial -> its pictures

    def draw(self, trials: Sequence[StoredTrial]) -> str | None:
        """Draw and store the picture, and return where it is; None where renders are not stored.

        Args:
            trials: those of the study so far.

        Raises:
            ArtifactError: the artifact store fails.
        """
        study = self._records.study
        parents = [trial for trial in parent_trials(trials).values() if trial.state == "complete"]
        found = best_of(trials, None, self._objective)
        best = None if found is None else found.trial
        shown = parents if best is None or best in parents else [*parents, best]
        self._read(shown)
        if not shown or not all(self._thumbnails[trial.number] for trial in shown):
            return None
        columns = [(self._heading(trial, best), self._thumbnails[trial.number]) for trial in shown]
        finished = sum(trial.state != "running" for trial in trials)
        title = f"{study.name}, after {finished} of {study.spec.budget.trials} trials"
        captions = row_captions(study.spec.suite)
        sheet = comparison_sheet(title, columns, captions, blocks=tables_for(len(captions)), thumbnails=True)
        return self._artifacts.save_picture(study.name, study.key, "latest", sheet)

    def _heading(self, trial: StoredTrial, best: StoredTrial | None) -> str:
        role = "best so far" if trial is best else ""
        return column_heading(self._records.study, trial, trial.gains, self._objective, role)

    def _read(self, shown: Sequence[StoredTrial]) -> None:
        """Read what is to be shown and was not yet; forget what is no longer shown."""
        study = self._records.study
        pictures = (len(study.parents) + 1) * len(study.spec.suite.items())
        for trial in shown:
            if not self._thumbnails.get(trial.number):
                images = stored_images(self._records, self._artifacts, trial)
                self._thumbnails[trial.number] = [thumbnail(image, pictures) for image in images]
        numbers = {trial.number for trial in shown}
        self._thumbnails = {number: own for number, own in self._thumbnails.items() if number in numbers}
