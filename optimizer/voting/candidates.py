"""What a study offers to voters: its trials with stored renders."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optimizer.preference.model import Floats
from optimizer.preference.points import points_of
from studies.files.artifacts import Artifacts
from studies.files.png import picture_png
from studies.records.stored_renders import load_renders
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

LOOK_SECONDS: Final = 10.0  # between two looks for new trials, while a study runs
MOST_TRIALS: Final = 200  # that are compared: the parents, then those that are newest
LOOKS_AGAIN: Final = (
    "this page looks again by itself. `render: {keep: all}` in a spec stores the renders of every trial, not only of "
    "the best and the parents"
)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The trials that can be compared."""

    trials: tuple[StoredTrial, ...]
    files: Mapping[int, Mapping[int, str]]  # number -> item -> name of its PNG in the artifact store
    points: Mapping[int, Floats]  # number -> its ratios, scaled to 0..1 by their bounds [d]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the trials."""
        return tuple(trial.number for trial in self.trials)

    @property
    def items(self) -> dict[int, frozenset[int]]:
        """Number -> the items of which its render is stored."""
        return {number: frozenset(files) for number, files in self.files.items()}


def load_candidates(records: StudyRecords) -> Candidates:
    """Read the finished trials whose renders are stored, at most MOST_TRIALS of them, the parents first."""
    trials = [trial for trial in load_trials(records) if trial.is_whole]
    files = {trial.number: _files(records, trial) for trial in trials}
    shown = [trial for trial in trials if files[trial.number]]
    parents = [trial for trial in shown if trial.origin.parent is not None]
    others = [trial for trial in shown if trial.origin.parent is None]
    kept = tuple(sorted([*parents, *others[-(MOST_TRIALS - len(parents)) :]], key=lambda trial: trial.number))
    return Candidates(
        trials=kept,
        files={trial.number: files[trial.number] for trial in kept},
        points=points_of(records, kept),
    )


def _files(records: StudyRecords, trial: StoredTrial) -> dict[int, str]:
    return {render.item: render.file for render in load_renders(records, trial) if render.file is not None}


class LatestCandidates:
    """The candidates of a study that may run, for several threads: as they were at most LOOK_SECONDS ago."""

    def __init__(self, records: StudyRecords, artifacts: Artifacts) -> None:
        self._records, self._artifacts = records, artifacts
        self._lock = threading.Lock()
        self._looked_at, self._candidates = time.monotonic(), load_candidates(records)

    def load(self) -> Candidates:
        """Return the trials that can be compared."""
        with self._lock:
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._candidates, self._looked_at = load_candidates(self._records), time.monotonic()
            return self._candidates

    def image(self, number: int, item: int) -> bytes | None:
        """Return a render as PNG, without the texts in which it documents itself; None if it is not there.

        Raises:
            ArtifactError: the render is gone or damaged, or the store fails.
        """
        file = self.load().files.get(number, {}).get(item)
        return None if file is None else picture_png(self._artifacts.open_render(file))
