"""What the contact sheets of a study have in common: the words above their columns, and the renders in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image
from torch import Tensor

from optimizer.rendering.contact_sheet import comparison_sheet, to_tensor
from optimizer.trial.gain_text import gain_text
from optimizer.trial.objective import SINGLE, Objective
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts
from studies.records import stored_renders
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial

ROWS = 8  # of a sheet, before it gets another table beside the first
WIDEST = 4  # tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is on a contact sheet that compares models."""

    title: str
    columns: Sequence[tuple[str, Sequence[Tensor]]]  # heading, and pictures uint8 [3, height, width] by item
    captions: Sequence[str]  # of the rows

    def draw(self, *, widest: int = WIDEST, thumbnails: bool = False) -> Image:
        """Draw it, its rows divided into tables side by side.

        Args:
            widest: tables, at most.
            thumbnails: whether the pictures have their size on the sheet already.
        """
        tables = min(widest, -(-len(self.captions) // ROWS))
        return comparison_sheet(self.title, self.columns, self.captions, tables=tables, thumbnails=thumbnails)


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
        title, what = f"{letter}: {study.parent_file(letter).path.stem}", f"trial {trial.number}"
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
