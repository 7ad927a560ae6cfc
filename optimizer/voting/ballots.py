"""What a study offers to voters: its trials with stored renders, the next pair, and what was voted so far."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optimizer.preference.model import Floats, fit
from optimizer.preference.points import points_of
from optimizer.preference.values import refresh_preference
from optimizer.voting.pairs import choose_pair
from studies.files.artifacts import Artifacts
from studies.files.png import picture_png
from studies.records.stored_renders import load_renders
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.records.votes import Verdict, Vote, cast_vote, load_pair, load_votes, show_pair, take_back

LOOK_SECONDS: Final = 10.0  # between two looks for new trials, while a study runs
MOST_TRIALS: Final = 200  # that are compared: the parents, then those whose objectives are best or that are newest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair:
    """A pair as a voter sees it: nothing says which trials its renders are of."""

    token: str
    prompt: str
    own_votes: int  # of this person
    all_votes: int
    trials: int  # that are compared


class Ballots:
    """The votes of one study. Requests come from several threads.

    Args:
        random: where chance comes from.
    """

    def __init__(self, records: StudyRecords, artifacts: Artifacts, random: np.random.Generator | None = None) -> None:
        self.records, self._artifacts = records, artifacts
        self._random = np.random.default_rng() if random is None else random
        self._lock = threading.Lock()
        self._looked_at, self._candidates = -np.inf, load_candidates(records)

    def candidates(self) -> Candidates:
        """Return the trials that can be compared, as they were at most LOOK_SECONDS ago."""
        with self._lock:
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._candidates, self._looked_at = load_candidates(self.records), time.monotonic()
            return self._candidates

    def next_pair(self, person: str) -> ShownPair | None:
        """Return the next pair for a person; None where there are no two renders to compare yet."""
        candidates = self.candidates()
        if len(candidates.trials) < 2:
            return None
        votes = load_votes(self.records)
        preference = fit(votes, candidates.numbers, candidates.points)
        with self._lock:  # a generator is one thread's
            pair = choose_pair(preference, candidates.items, votes, self._random)
        if pair is None:
            return None
        return self._shown(show_pair(self.records, person, pair.item, pair.left, pair.right), votes)

    def image(self, token: str, side: str) -> bytes | None:
        """Return a render of a pair as PNG, without the texts in which it documents itself; None if it is not there.

        Raises:
            ArtifactError: the render is gone or damaged, or the store fails.
        """
        vote = load_pair(self.records, token)
        if vote is None:
            return None
        file = self.candidates().files.get(vote.left if side == "left" else vote.right, {}).get(vote.item)
        if file is None:
            return None
        picture = self._artifacts.open_render(file)
        return picture_png(picture)

    def vote(self, token: str, verdict: Verdict) -> bool:
        """Store a vote, and what follows for the study's objective; False where the vote's pair is gone."""
        stored = cast_vote(self.records, token, verdict)
        if stored:
            refresh_preference(self.records)
        return stored

    def undo(self, person: str) -> ShownPair | None:
        """Take back the last vote of a person, and return its pair; None where there is none."""
        vote = take_back(self.records, person)
        refresh_preference(self.records)
        return None if vote is None else self._shown(vote, load_votes(self.records))

    def _shown(self, vote: Vote, votes: Sequence[Vote]) -> ShownPair:
        by_person = Counter(each.person for each in votes)
        return ShownPair(
            token=vote.token,
            prompt=self.records.study.spec.suite.items()[vote.item].prompt,
            own_votes=by_person[vote.person],
            all_votes=len(votes),
            trials=len(self.candidates().trials),
        )
