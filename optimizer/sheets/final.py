"""The contact sheet of a final: its parents and candidates side by side, on renders that the search never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final as Constant

from torch import Tensor

from optimizer.rendering.contact_sheet import row_captions
from optimizer.sheets.comparison import Sheet, column_heading
from optimizer.trial.best import role_in_final
from optimizer.trial.objective import Objective
from studies.files.artifacts import Artifacts
from studies.records.finals import Final
from studies.records.values import StoredStudy, StoredTrial

WIDEST: Constant = 2  # tables side by side: it has more columns than other sheets


def save_final_sheet(
    study: StoredStudy,
    final: Final,
    trials: Sequence[StoredTrial],
    thumbnails: Mapping[int, Sequence[Tensor]],
    artifacts: Artifacts,
) -> str:
    """Draw and store the sheet, and return where it is.

    Args:
        trials: all of the study's.
        thumbnails: trial -> its held-out renders, uint8 [3, height, width] each; of those that could be rendered.

    Raises:
        ArtifactError: the artifact store fails.
    """
    objective, by_number = Objective.of_study(study), {trial.number: trial for trial in trials}
    columns = [
        (
            column_heading(
                study, by_number[finalist.number], finalist.held_out, objective, role_in_final(final, finalist)
            ),
            thumbnails[finalist.number],
        )
        for finalist in final.finalists
        if finalist.number in thumbnails
    ]
    sheet = Sheet(
        title=f"{study.name}, the final: renders that the search never saw, and held-out gains",
        columns=columns,
        captions=row_captions(study.spec.held_out.items()),
    )
    return artifacts.save_contact_sheet(study.name, study.key, "final", sheet.draw(widest=WIDEST, thumbnails=True))
