"""Which trial a worker takes next: one that was interrupted, or a new one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from optuna.trial import Trial

from optimizer.observe.events import Reporter, TrialEnded, TrialTakenOver
from optimizer.preference.search import as_voted, lacks_votes
from optimizer.preference.values import refresh_preference
from optimizer.search.sampler import distributions
from optimizer.search.stopping import has_ended
from optimizer.work.heartbeat import RERUNS, Heartbeat, deaths, errors
from optimizer.work.trial_order import TrialOrder
from studies.recipe.recipe import Recipe
from studies.records import stored_trials, workers
from studies.records.cached_reads import CachedTrials
from studies.records.optuna_studies import optuna_study
from studies.records.optuna_tables import running_trials, store_params
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedTrial:
    """A trial that one worker evaluates."""

    trial: Trial
    origin: Origin
    recipe: Recipe
    worker_id: str
    interrupted: bool = False  # whether another worker started it

    @property
    def number(self) -> int:
        """The number that Optuna gave it."""
        return self.trial.number

    @property
    def is_parent(self) -> bool:
        """Whether it is a parent alone."""
        return self.origin.parent is not None


class NoTrial(Enum):
    """Why there is no trial to take."""

    ENDED = auto()  # nothing is left to do
    LACKS_VOTES = auto()  # no new trial may start before people have voted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A trial to start, be it new or interrupted."""

    trial: Trial
    params: Mapping[str, float]  # empty where none are stored
    attempt: int


class TrialQueue:
    """A queue from which the workers of this process claim trials of one study.

    Args:
        cached_trials: the study's, from the database.
        settle: does all that follows once a trial's outcome is stored, and returns the trial as it is stored then.
    """

    def __init__(
        self,
        records: StudyRecords,
        order: TrialOrder,
        cached_trials: CachedTrials,
        reporter: Reporter,
        settle: Callable[[Trial], StoredTrial],
    ) -> None:
        self._records, self._order = records, order
        self._cached_trials, self._reporter, self._settle = cached_trials, reporter, settle
        self._distributions = distributions(order.space)
        current = None if records.study.spec.voted is None else functools.partial(as_voted, records)
        self._optuna = optuna_study(records, order.sampler(current, smoothed=records.study.spec.by_votes_alone))
        self._optuna_id = self._optuna._study_id  # noqa: SLF001 - the storage wants it

    def claim(self, heartbeat: Heartbeat) -> ClaimedTrial | NoTrial:
        """Claim an interrupted trial, or a new one, if there may be one.

        Raises:
            KeyError: Optuna's part of the study was deleted.
        """
        with self._records.database.exclusive():
            while True:
                trials = self._cached_trials.trials()
                interrupted = self._interrupted(trials, heartbeat)
                if interrupted is None:
                    return self._why_none(trials) or self._new(heartbeat)
                claimed = replace(self._prepare(interrupted, heartbeat.worker_id), interrupted=True)
                if self._start(claimed, interrupted.attempt):
                    self._reporter.report(TrialTakenOver(trial=claimed.number, attempt=interrupted.attempt))
                    return claimed
                # Its worker is alive after all, and has stored it since the trials were read.

    def _why_none(self, trials: Sequence[StoredTrial]) -> NoTrial | None:
        """Return why no new trial may start; None while one may. Call it under the lock."""
        if has_ended(self._records, trials, self._optuna):
            return NoTrial.ENDED
        return NoTrial.LACKS_VOTES if lacks_votes(self._records, trials) else None

    def _new(self, heartbeat: Heartbeat) -> ClaimedTrial:
        """Start a new trial."""
        refresh_preference(self._records)
        # `Study.ask` does the same, but first reads every trial in search of an enqueued one. There never is one.
        trial = Trial(self._optuna, self._records.database.storage.create_new_trial(self._optuna_id))
        claimed = self._prepare(_Start(trial=trial, params={}, attempt=1), heartbeat.worker_id)
        self._start(claimed, attempt=1)
        return claimed

    def _start(self, claimed: ClaimedTrial, attempt: int) -> bool:
        return stored_trials.start_trial(
            self._records, claimed.number, claimed.origin, claimed.recipe, claimed.worker_id, attempt
        )

    def _interrupted(self, trials: Sequence[StoredTrial], heartbeat: Heartbeat) -> _Start | None:
        """Find a RUNNING trial that nobody works on. Where its outcome is stored already, it is only settled."""
        alive = heartbeat.alive() - {heartbeat.worker_id}
        by_number = {stored.number: stored for stored in trials}
        for number, trial_id in running_trials(self._records.database, self._optuna_id).items():
            stored = by_number.get(number)
            if stored is not None and stored.worker_id in alive:
                continue
            trial = Trial(self._optuna, trial_id)  # Optuna has no public way to continue a trial
            if stored is None:
                return _Start(trial=trial, params=trial.params, attempt=1)
            if stored.state == "running" and (attempt := self._next_attempt(stored)) is not None:
                return _Start(trial=trial, params=trial.params, attempt=attempt)
            ended = self._settle(trial)
            if ended.failure == "worker_died":
                self._reporter.report(TrialEnded.of(ended))  # its worker is dead and cannot report it
        return None

    def _next_attempt(self, stored: StoredTrial) -> int | None:
        """Return the number of the next attempt; None if too many died or failed over the trial, which fails it.

        A worker that left by itself has signed off, and does not count as dead.
        """
        if not workers.is_registered(self._records.database, stored.worker_id):
            if stored.attempt <= RERUNS + 1:
                return stored.attempt
            failure = errors(stored.attempt - 1)
        elif stored.attempt <= RERUNS:
            return stored.attempt + 1
        else:
            failure = deaths(stored.attempt)
        stored_trials.fail_trial(self._records, stored.number, stored.worker_id, failure)
        return None

    def _prepare(self, start: _Start, worker_id: str) -> ClaimedTrial:
        """Make the recipe of a trial, from its probe or from its parameters."""
        trial, probe = start.trial, self._order.probe(start.trial.number)
        if probe is not None and probe.params is None:
            return ClaimedTrial(trial=trial, origin=probe.origin, recipe=probe.recipe, worker_id=worker_id)
        params = start.params or self._proposed(trial)
        recipe = probe.recipe if probe else self._order.blueprint.recipe(self._order.space.numbers_by_place(params))
        origin = probe.origin if probe else Origin("sampler", self._order.settings.name)
        return ClaimedTrial(trial=trial, origin=origin, recipe=recipe, worker_id=worker_id)

    def _proposed(self, trial: Trial) -> dict[str, float]:
        """Ask the sampler for parameters, and store them."""
        params = {name: trial.relative_params[name] for name in self._distributions}
        store_params(self._records.database, trial._trial_id, params, self._distributions)  # noqa: SLF001
        return params
