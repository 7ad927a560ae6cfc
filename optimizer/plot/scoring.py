"""The scores of a plot's cells by the scorers of its spec, and which of those a cell has too few images for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from basics.messages import counted
from optimizer.plot.tables import Cell
from optimizer.rendering.prediction import Prediction
from optimizer.trial.evaluation import scoring_of
from scorers.protocol import Scorer, ScorerInfo
from studies.spec.study import StudySpec


def usable_scorers(spec: StudySpec, cells: Sequence[Cell]) -> tuple[StudySpec, tuple[str, ...]]:
    """Return the spec with those of its scorers that can score every cell, and a note for each that is left out."""
    compared = spec.references
    notes = {name: _note(name, info, cells, compared.get(name, ())) for name, info in spec.infos.items()}
    kept = {name: entry for name, entry in spec.scorers.items() if notes[name] is None}
    if spec.voted is not None:
        kept.pop(spec.voted, None)
        notes[spec.voted] = f"{spec.voted} is left out: people have not voted on these pictures"
    return spec.model_copy(update={"scorers": kept}), tuple(note for note in notes.values() if note is not None)


def _note(name: str, info: ScorerInfo, cells: Sequence[Cell], compared: Sequence[str]) -> str | None:
    if compared:
        return f"{name} is left out: it compares with the renders of another model, and a plot has those of its cells"
    counts = {len(cell.suite.looked_at_by(name)) for cell in cells} - {0}
    if not counts or min(counts) >= info.min_images:
        return None
    return (
        f"{name} is left out: it needs {counted(info.min_images, 'image')}, a cell has {min(counts)}; give --images "
        f"{info.min_images}"
    )


def score_cell(
    cell: Cell, images: tuple[Tensor, ...], scorers: Mapping[str, Scorer], prediction: Prediction
) -> dict[str, float | None]:
    """Return the mean of each scorer over a cell's images, uint8 [3, h, w]; None where it looks at none of them.

    Raises:
        UnscorableTrial: a scorer fails, or returns a value that is not finite.
    """
    scoring = scoring_of(scorers, cell.suite, prediction)
    means = scoring.scores(scoring.score(cell.suite.items(), images)).means
    return {name: means.get(name) for name in scorers}
