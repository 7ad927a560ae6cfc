"""Which trials of the search have their renders stored as files.

They are the parents and the best observed trial, or the whole front of several objectives, unless the spec says all or
none. The final stores its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from optimizer.system.retry import Retry
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials, would_be_best
from studies.files.artifacts import Artifacts
from studies.records import stored_renders
from studies.records.cached_reads import CachedTrials
from studies.records.study_records import StudyRecords


class Retention:
    """The rule by which renders of one study are written, and removed once they are no longer wanted."""

    def __init__(
        self,
        records: StudyRecords,
        artifacts: Artifacts,
        objective: Objective,
        cached_trials: CachedTrials,
        retry: Retry,
    ) -> None:
        self._records, self._artifacts = records, artifacts
        self._objective, self._cached_trials, self._retry = objective, cached_trials, retry
        self._keep = records.study.spec.render.keep

    def stores(self, objectives: Mapping[str, float], constrained: Mapping[str, float], *, is_parent: bool) -> bool:
        """Return whether the renders of a trial with these objectives and constrained means are written."""
        if self._keep == "best" and not is_parent:
            return would_be_best(objectives, self._cached_trials.trials(), self._objective, constrained)
        return self._keep != "none"

    def remove_unwanted(self) -> None:
        """Remove the renders of trials that are neither a parent nor the best observed or on the front.

        Raises:
            DatabaseLostError: the database or the store went away and stayed away.
            ArtifactError: a file cannot be removed.
        """
        if self._keep != "best":
            return
        trials = self._cached_trials.trials()
        wanted = {trial.number for trial in (*parent_trials(trials).values(), *best_trials(trials, self._objective))}
        unwanted = stored_renders.stored_files(self._records).keys() - wanted
        for trial in trials:
            if trial.state == "complete" and trial.number in unwanted:  # not one stored since the trials were read
                for file in stored_renders.drop_files(self._records, trial):
                    # Retried here: their names are gone from the database, so nobody could try again later.
                    self._retry(functools.partial(self._artifacts.store.remove, file))
