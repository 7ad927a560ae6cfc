"""The words on the contact sheets of a study, and the picture of its parents beside the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimizer.rendering.contact_sheet import comparison_sheet, row_captions, thumbnail, to_tensor
from optimizer.trial.best import Best, best_of, merges_by_rank, told_gains
from optimizer.trial.gain_text import gain_text
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import complete_parents
from optimizer.trial.repeats import final_counted_once
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts
from studies.records import stored_renders
from studies.records.finals import Final, load_final
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is on a contact sheet that compares models."""

    title: str
    columns: Sequence[tuple[str, Sequence[Tensor]]]  # heading, and pictures uint8 [3, height, width] by item
    captions: Sequence[str]  # of the rows


ROWS = 8  # of a sheet, before it gets another table beside the first
WIDEST = 4  # tables


def tables_for(rows: int) -> int:
    """Return into how many tables side by side the rows of a sheet are divided."""
    return min(WIDEST, -(-rows // ROWS))


def column_heading(
    study: StoredStudy,
    trial: StoredTrial,
    gains: Mapping[str, Gain],
    objective: Objective,
    role: str = "",
    *,
    held_out: bool = False,
) -> str:
    """Return what stands above a trial's pictures: a parent's file or the trial, what it is, and its gains.

    Args:
        gains: over the better parent; that of the better parent itself is not told.
        role: such as `best (final)`; empty: none.
        held_out: whether to say that the gains are of renders that the search never saw.
    """
    letter = trial.origin.parent
    if letter is None:
        title, what = f"trial {trial.number}", trial.title
    else:
        file = next(each.path.stem for each in study.parents if each.letter == letter)
        title, what = f"{letter}: {file}", f"trial {trial.number}"
    told = [name for name in objective.names if name in gains and gains[name].parent != letter]
    where = " held out" if held_out else ""
    gained = [f"{'' if name == SINGLE else f'{name} '}{gain_text(gains[name])}{where}" for name in told]
    return "\n".join([title, f"{what}, {role}" if role else what, *gained])


def stored_images(records: StudyRecords, artifacts: Artifacts, trial: StoredTrial) -> list[Tensor]:
    """Read a trial's renders, uint8 [3, height, width] each; none where one of them is not stored or lost.

    Raises:
        ArtifactError: the artifact store fails.
    """
    files = [render.file for render in stored_renders.load_renders(records, trial)]
    return [] if None in files else opened_renders(artifacts, [file for file in files if file is not None])


def opened_renders(artifacts: Artifacts, files: Sequence[str]) -> list[Tensor]:
    """Read renders by their names in the store, uint8 [3, height, width] each; none where one of them is lost.

    Raises:
        ArtifactError: the artifact store fails.
    """
    try:
        return [to_tensor(artifacts.open_render(file)) for file in files]
    except RenderLostError:
        return []


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
        sheet, study = self.sheet(trials), self._records.study
        if sheet is None:
            return None
        blocks = tables_for(len(sheet.captions))
        picture = comparison_sheet(sheet.title, sheet.columns, sheet.captions, blocks=blocks, thumbnails=True)
        return self._artifacts.save_picture(study.name, study.key, "latest", picture)

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
