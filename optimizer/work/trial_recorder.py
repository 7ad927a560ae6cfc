"""Record the outcome of a trial: its files, its scores in the database, and its values in Optuna."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from PIL.Image import Image

from optimizer.preference.values import refresh_preference
from optimizer.rendering.contact_sheet import contact_sheet, row_captions
from optimizer.system.retry import Retry
from optimizer.trial.evaluation import Evaluation
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.racing import ESTIMATE_KEY, Race
from optimizer.work.gain_recorder import GainRecorder
from optimizer.work.retention import Retention
from optimizer.work.trial_order import TrialOrder
from optimizer.work.trial_queue import ClaimedTrial
from studies.errors import ArtifactError
from studies.files.artifacts import Artifacts, TrialFiles, attach_sheet
from studies.records import stored_trials
from studies.records.failures import Failure
from studies.records.kept_renders import documented_renders
from studies.records.optuna_tables import TRIAL_NAME
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial, TrialResult
from studies.spec.suite import SuiteItem


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What the search is told of a trial."""

    objectives: Mapping[str, float]
    constrained: Mapping[str, float]  # scorer that has a constraint -> its mean
    incumbent: int | None = None  # the trial against which both were estimated; None if they were not


class TrialRecorder:
    """A recorder of one study's trials, each of them whole or not at all.

    Args:
        items: the suite's.
        describe_machine: what the exact pixels of a render depend on beyond the recipe and the batches.
    """

    def __init__(
        self,
        records: StudyRecords,
        artifacts: Artifacts,
        *,
        order: TrialOrder,
        objective: Objective,
        items: Sequence[SuiteItem],
        gains: GainRecorder,
        retention: Retention,
        retry: Retry,
        describe_machine: Callable[[], Mapping[str, str]],
    ) -> None:
        self._records, self._artifacts = records, artifacts
        self._order, self._objective, self._items = order, objective, items
        self._gains, self._retention, self._retry = gains, retention, retry
        self._describe_machine = describe_machine

    def store(self, claimed: ClaimedTrial, evaluation: Evaluation, race: Race | None, started: float) -> bool:
        """Record what a trial scored; False, and no file is left behind, where it is another worker's by now.

        Args:
            race: the race that it took part in, if any. A trial that was stopped gets an estimated objective.
            started: when the trial began, by time.perf_counter().

        Raises:
            ArtifactError: a file could not be written; none is left behind.
        """
        files = self._files(claimed)
        try:
            stored = self._retry(lambda: self._store(claimed, evaluation, race, started))
        except ArtifactError:
            with suppress(ArtifactError):
                files.remove()
            raise
        if not stored:
            self._retry(files.remove)
        return stored

    def fail(self, claimed: ClaimedTrial, failure: Failure, rendered: int, seconds: float) -> bool:
        """Record why a trial failed, and what it cost; False where it is another worker's by now.

        Args:
            rendered: images.
            seconds: from the beginning of the trial.
        """
        number, worker_id, parts = claimed.number, claimed.worker_id, {"other": seconds}
        return self._retry(lambda: stored_trials.fail_trial(self._records, number, worker_id, failure, rendered, parts))

    def settle(self, trial: Trial) -> StoredTrial:
        """Do everything that follows once a trial's outcome is stored. Doing it twice is harmless."""
        self._gains.fill_gains(trial.number)
        refresh_preference(self._records)  # so that the note and the sheet have the value of now
        self._retention.remove_unwanted()
        stored = self._gains.stored_trial(trial.number)
        self._gains.describe(stored)
        with suppress(UpdateFinishedTrialError):  # Optuna has it already, or another program has ended it
            if stored.contact_sheet is not None:
                attach_sheet(trial, stored.contact_sheet)
            trial.set_user_attr(TRIAL_NAME, stored.name)
            if stored.estimated:
                trial.set_user_attr(ESTIMATE_KEY, {"images": stored.rendered, "incumbent": stored.incumbent})
            self._tell(trial, stored)
        refresh_preference(self._records)  # a vote that came in between has changed ours, and Optuna had no value yet
        return stored

    def settle_abandoned(self, trial: Trial) -> StoredTrial:
        """Settle a trial whose worker is dead, and remove what it left."""
        stored = self.settle(trial)
        self.remove_files_of_others(stored.number)
        return stored

    def remove_files_of_others(self, number: int) -> None:
        """Remove the files of workers that did not finish a trial. A failed trial has none."""
        stored = self._gains.stored_trial(number)
        if stored.state != "running":
            self._artifacts.remove_others(self._records.study.key, number, stored.worker_id)
        if stored.state == "failed":
            self._artifacts.of_trial(self._records.study.key, number, stored.worker_id).remove()

    def _files(self, claimed: ClaimedTrial) -> TrialFiles:
        return self._artifacts.of_trial(self._records.study.key, claimed.number, claimed.worker_id)

    def _store(self, claimed: ClaimedTrial, evaluation: Evaluation, race: Race | None, started: float) -> bool:
        files = self._files(claimed)
        sheet_id = files.save_sheet(self._contact_sheet(claimed, evaluation))
        outcome = self._outcome(evaluation, race)
        renders = self._save_renders(claimed, files, evaluation, outcome)
        if evaluation.features:
            files.save_features({name: feature.numpy() for name, feature in evaluation.features.items()})
        other = time.perf_counter() - started - sum(evaluation.seconds.values())
        result = TrialResult(
            objectives=outcome.objectives,
            constrained=outcome.constrained,
            items=evaluation.items,
            image_scores={name: tuple(map(float, values)) for name, values in evaluation.scores.by_item.items()},
            set_scores=dict(evaluation.scores.by_set),
            pixels_sha256=evaluation.pixels_sha256,
            files=renders,
            seconds={**evaluation.seconds, "other": other},
            machine=self._describe_machine(),
            batch_limits=evaluation.batch_limits,
            contact_sheet=sheet_id,
            incumbent=outcome.incumbent,
        )
        return stored_trials.finish_trial(self._records, claimed.number, claimed.worker_id, result)

    def _save_renders(
        self, claimed: ClaimedTrial, files: TrialFiles, evaluation: Evaluation, outcome: _Outcome
    ) -> dict[int, str]:
        """Write the renders, and return item -> name of its PNG in the store; empty where none are to be written."""
        if not self._retention.stores(outcome.objectives, outcome.constrained, is_parent=claimed.is_parent):
            return {}
        study = self._records.study
        pairs = zip(evaluation.items, evaluation.images, strict=True)
        renders = documented_renders(
            study,
            study.spec.suite,
            ((self._items[item], image.numpy()) for item, image in pairs),
            number=claimed.number,
            origin=claimed.origin,
            recipe=claimed.recipe,
        )
        return dict(zip(evaluation.items, files.save_renders(renders), strict=True))

    def _outcome(self, evaluation: Evaluation, race: Race | None) -> _Outcome:
        if race is None or len(evaluation.items) == len(self._items):
            means = evaluation.scores.means
            return _Outcome(
                objectives=self._objective.values(means), constrained=self._objective.constraints.known(means)
            )
        evidence = self._gains.evidence(evaluation.scores, evaluation.features)
        return _Outcome(
            objectives={SINGLE: race.estimate(evaluation.items, evidence)},
            constrained=race.estimate_constrained(evaluation.items, evidence),
            incumbent=race.incumbent,
        )

    def _contact_sheet(self, claimed: ClaimedTrial, evaluation: Evaluation) -> Image:
        rendered = len(evaluation.items)
        title = f"{self._records.study.name}, trial {claimed.number}: {claimed.origin}"
        if rendered < len(self._items):
            title += f", stopped after {rendered} of {len(self._items)} images"
        return contact_sheet(title, evaluation.images, row_captions(self._items[item] for item in evaluation.items))

    def _tell(self, trial: Trial, stored: StoredTrial) -> None:
        """Give Optuna the outcome. A parent outside the space has no parameters to learn from, so it counts as pruned.

        This goes through Optuna's storage. `Study.tell` would read the trial three times, and show it to a sampler
        that remembers nothing.
        """
        values = None
        if stored.state == "failed":
            state = TrialState.FAIL
        elif not self._order.has_parameters(stored.number):
            state = TrialState.PRUNED
        else:
            state = TrialState.COMPLETE
            values = [stored.objectives[name] for name in self._objective.names]
        told = trial.constraints  # by the last attempt, which was cut off
        for name, excess in self._objective.constraints.excesses(stored.constrained).items():
            if name not in told:
                trial.set_constraint(name, excess)
        self._records.database.storage.set_trial_state_values(trial._trial_id, state, values)  # noqa: SLF001
