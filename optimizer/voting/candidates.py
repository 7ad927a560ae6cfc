"""What a study offers to voters: its trials with stored renders, or those of its final."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final as Constant

from optimizer.preference.model import Floats
from optimizer.preference.points import points_of
from studies.files.artifacts import Artifacts
from studies.files.png import picture_png
from studies.records.finals import Final, load_final
from studies.records.kept_renders import final_renders, stored_final_renders
from studies.records.stored_renders import load_renders
from studies.records.stored_trials import load_trial, load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

LOOK_SECONDS: Constant = 10.0  # between two looks for new trials, while a study runs
MOST_TRIALS: Constant = 200  # that are compared: the parents, then those that are newest
LOOKS_AGAIN: Constant = (
    "this page looks again by itself. `render: {keep: all}` in a spec stores the renders of every trial, not only of "
    "the best and the parents"
)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The trials that can be compared, on one suite."""

    held_out: bool  # whether on the final's suite, else on the search's
    trials: tuple[StoredTrial, ...]
    files: Mapping[int, Mapping[int, str]]  # number -> item -> name of its PNG in the artifact store
    points: Mapping[int, Floats]  # number -> its ratios, scaled to 0..1 by their bounds [d]; none in the final

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the trials."""
        return tuple(trial.number for trial in self.trials)

    @property
    def items(self) -> dict[int, frozenset[int]]:
        """Number -> the items of which its render is stored."""
        return {number: frozenset(files) for number, files in self.files.items()}

    @property
    def parents(self) -> frozenset[int]:
        """The numbers of the parents alone."""
        return frozenset(trial.number for trial in self.trials if trial.origin.parent is not None)


def load_candidates(records: StudyRecords, artifacts: Artifacts) -> Candidates:
    """Read what people are to compare: the final's pictures where a final asks for votes, else those of the search.

    Raises:
        ArtifactError: the artifact store cannot be listed.
    """
    trials = load_trials(records)
    final = load_final(records)
    if final is not None and final.votes is not None and not final.is_outdated(trials):
        return _of_final(records, artifacts, final, trials)
    return load_searched(records)


def load_searched(records: StudyRecords) -> Candidates:
    """Read the finished trials whose renders are stored, at most MOST_TRIALS of them, the parents first."""
    trials = [trial for trial in load_trials(records) if trial.is_whole]
    files = {trial.number: _files(records, trial) for trial in trials}
    shown = [trial for trial in trials if files[trial.number]]
    parents = [trial for trial in shown if trial.origin.parent is not None]
    others = [trial for trial in shown if trial.origin.parent is None]
    kept = tuple(sorted([*parents, *others[-(MOST_TRIALS - len(parents)) :]], key=lambda trial: trial.number))
    return Candidates(
        held_out=False,
        trials=kept,
        files={trial.number: files[trial.number] for trial in kept},
        points=points_of(records, kept),
    )


def _files(records: StudyRecords, trial: StoredTrial) -> dict[int, str]:
    return {render.item: render.file for render in load_renders(records, trial) if render.file is not None}


def _of_final(records: StudyRecords, artifacts: Artifacts, final: Final, trials: Sequence[StoredTrial]) -> Candidates:
    """Read the finalists whose held-out renders are stored."""
    stored = stored_final_renders(records.study, artifacts, [each.number for each in final.finalists])
    files: dict[int, dict[int, str]] = {}
    for (number, item), name in stored.items():
        files.setdefault(number, {})[item] = name
    scored = {each.number for each in final.finalists if each.failure is None}
    shown = tuple(trial for trial in trials if trial.number in scored and trial.number in files)
    return Candidates(
        held_out=True, trials=shown, files={trial.number: files[trial.number] for trial in shown}, points={}
    )


class LatestCandidates:
    """The candidates of a study that may run, for several threads: as they were at most LOOK_SECONDS ago.

    Args:
        load: reads them.
    """

    def __init__(self, load: Callable[[], Candidates]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._looked_at, self._candidates = time.monotonic(), load()

    def load(self) -> Candidates:
        """Return the trials that can be compared."""
        with self._lock:
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._candidates, self._looked_at = self._load(), time.monotonic()
            return self._candidates


def render_png(records: StudyRecords, artifacts: Artifacts, number: int, item: int, *, held_out: bool) -> bytes | None:
    """Return a render as PNG, without the texts in which it documents itself; None if it is not there.

    Args:
        number: of the trial.
        item: index in the search's suite, or in the final's where `held_out`.

    Raises:
        ArtifactError: the render is gone or damaged, or the store fails.
    """
    if held_out:
        names = final_renders(records.study, artifacts, number)
        file = names[item] if item < len(names) else None
    else:
        trial = load_trial(records, number)
        file = None if trial is None else _files(records, trial).get(item)
    return None if file is None else picture_png(artifacts.open_render(file))
