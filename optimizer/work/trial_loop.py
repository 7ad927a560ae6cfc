"""The loop of a worker: claim a trial, evaluate it, store its outcome, settle it, until the study ends or stops.

What counts is in the database, not in memory. A trial goes through these states, and may be cut off between any two:

    claimed    Optuna has a RUNNING trial; its parameters follow from the database and its number
    started    our table of trials names the worker and the recipe
    stored     the outcome, with renders and scores, is stored in one transaction
    settled    all that follows is done, and Optuna has the value

A RUNNING trial whose worker is dead is taken over. If its outcome was stored, it is settled; otherwise it is evaluated
again. A trial over which too many workers died fails, because it may be what kills them. A worker that was wrongly
taken for dead cannot store anything: only the worker that the database names for the trial can.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from optuna.trial import Trial

from basics.messages import first_line
from optimizer.errors import OptimizerError, ScoredImageLost, UnscorableTrial
from optimizer.observe.events import (
    BatchReduced,
    ImagesRendered,
    Reporter,
    SheetDrawn,
    StopAsked,
    StudyPaused,
    TrialEnded,
    TrialLost,
    TrialStarted,
    VotesAwaited,
    WorkerLeft,
    WorkerStarted,
    reporting_retry,
)
from optimizer.preference.search import AHEAD
from optimizer.runtime.machine import device_kind, machine_description
from optimizer.runtime.setup import Runtime
from optimizer.sheets.latest import LatestSheet
from optimizer.trial.racing import Race
from optimizer.trial.ranking import best_trials, complete_parents, parent_trials
from optimizer.trial.scored_images import read_images
from optimizer.work.gain_recorder import GainRecorder
from optimizer.work.heartbeat import Heartbeat, registered_worker
from optimizer.work.leftovers import remove_leftovers
from optimizer.work.retention import Retention
from optimizer.work.trial_order import TrialOrder
from optimizer.work.trial_queue import ClaimedTrial, NoTrial, TrialQueue
from optimizer.work.trial_recorder import TrialRecorder
from studies.errors import WaitEndedError
from studies.files.artifacts import Artifacts
from studies.records.batch_limits import BatchLimit
from studies.records.cached_reads import CachedTrials
from studies.records.control import status_of
from studies.records.failures import Failure
from studies.records.optuna_studies import optuna_study
from studies.records.stored_batch_limits import load_batch_limits, store_batch_limit
from studies.records.stored_renders import load_renders
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.records.workers import turn_to
from studies.system.waiting import USUAL_PATIENCE_SECONDS, ending_when

PAUSE_SECONDS = 2.0  # between two checks of whether a study that is paused or lacks votes goes on

_log = logging.getLogger(__name__)


class TrialLoop:
    """The trials that one worker takes of one study, one after the other.

    Args:
        stop: asked between trials; True ends the work.
        patience_seconds: how long the database may be away.
    """

    def __init__(
        self,
        records: StudyRecords,
        runtime: Runtime,
        artifacts: Artifacts,
        reporter: Reporter,
        stop: Callable[[], bool] = lambda: False,
        patience_seconds: float = USUAL_PATIENCE_SECONDS,
    ) -> None:
        self._retry = reporting_retry(reporter, patience_seconds)
        self._waits = functools.partial(ending_when, stop, patience_seconds)
        self._records, self._runtime, self._artifacts = records, runtime, artifacts
        self._reporter, self._stop = reporter, stop
        self._cached_trials = CachedTrials(records)
        order = TrialOrder.of(runtime, self._cached_trials.trials())
        scoring = runtime.evaluator.scoring
        self._gains = GainRecorder(records, self._cached_trials, runtime.plan, scoring, artifacts)
        self._gains_are_due = order.copied > 0  # of the copied trials
        self._latest = LatestSheet(records, artifacts, runtime.objective)
        self._leftovers_are_due = True  # of workers that were killed
        self._lacks_votes = False  # as was reported
        self._recorder = self._make_recorder(order, artifacts)
        self._queue = TrialQueue(records, order, self._cached_trials, reporter, self._settle_abandoned)
        self._adopt_batch_limits()

    def _make_recorder(self, order: TrialOrder, artifacts: Artifacts) -> TrialRecorder:
        runtime, renderer = self._runtime, self._runtime.evaluator.renderer
        retention = Retention(self._records, artifacts, runtime.objective, self._cached_trials, self._retry)
        return TrialRecorder(
            self._records,
            artifacts,
            order=order,
            objective=runtime.objective,
            items=renderer.items,
            gains=self._gains,
            retention=retention,
            retry=self._retry,
            describe_machine=lambda: machine_description(runtime.device, runtime.variation),
        )

    def _adopt_batch_limits(self) -> None:
        """Begin with the batch limits that workers found on such devices, and store those that this one finds."""
        kind, largest_batches = device_kind(self._runtime.device), self._runtime.evaluator.renderer.largest_batches

        def note(limit: BatchLimit, reason: str) -> None:
            self._retry(lambda: store_batch_limit(self._records, kind, limit))
            self._reporter.report(BatchReduced(component=limit.component, images=limit.images, reason=reason))

        largest_batches.adopt(load_batch_limits(self._records, kind))
        largest_batches.on_lowered = note

    def run(self) -> int:
        """Work until the study's budget is spent or it is stopped; returns how many trials were finished.

        Raises:
            OptimizerError: every parent failed, so nothing can be compared with anything, or one has broken weights.
            StudyMissingError: Optuna's part of the study was deleted.
            DatabaseLostError: the database went away and stayed away.
            DatabaseLockedError: another process has kept the database's lock.
            DatabaseReplacedError, ArtifactsReplacedError: the database's file or the artifact folder is another one.
        """
        finished = 0
        with self._waits(), registered_worker(self._records.database, self._retry) as heartbeat:
            self._retry(lambda: turn_to(self._records.database, heartbeat.worker_id, self._records.study, "trials"))
            self._reporter.report(WorkerStarted(worker=heartbeat.worker_id))
            try:
                while self._may_go_on() and (done := self.work_once(heartbeat)) is not NoTrial.ENDED:
                    if done is NoTrial.LACKS_VOTES:
                        self._wait_for_votes()
                    else:
                        finished += done
                        self._lacks_votes = False
            except WaitEndedError as error:  # an unfinished trial is run again
                _log.warning("%s", error)
                self._reporter.report(StopAsked(by="signal"))
            finally:
                self._reporter.report(WorkerLeft(finished=finished))
        return finished

    def work_once(self, heartbeat: Heartbeat) -> bool | NoTrial:
        """Take one trial and evaluate it.

        Returns:
            Whether the trial was finished, False where it is another worker's by now; or why there was none.

        Raises:
            OptimizerError, StudyMissingError, DatabaseLostError: see `run`.
        """
        if self._gains_are_due:
            self._retry(self._gains.fill_gains)
            self._gains_are_due = False
        self._remove_leftovers(heartbeat)
        try:
            claimed = self._retry(lambda: self._queue.claim(heartbeat))
            finished = claimed if isinstance(claimed, NoTrial) else self._work(claimed)
        except KeyError:  # what Optuna's storage says of what is not there
            self._retry(lambda: optuna_study(self._records))
            raise
        self._remove_leftovers(heartbeat)
        self._retry(self._require_parents)
        return finished

    def _settle_abandoned(self, trial: Trial) -> StoredTrial:
        self._leftovers_are_due = True  # its worker's entry says no more that it holds a trial
        return self._recorder.settle_abandoned(trial)

    def _remove_leftovers(self, heartbeat: Heartbeat) -> None:
        """Remove what killed workers have left, if there may be something new."""
        if self._leftovers_are_due:
            self._retry(lambda: remove_leftovers(self._records, self._artifacts, heartbeat.alive))
            self._leftovers_are_due = False

    def _may_go_on(self) -> bool:
        """Return whether to take another trial; waits while the study is paused."""
        reported = False
        while not self._stop():
            status = self._retry(lambda: status_of(self._records))
            if status == "stopped":
                self._reporter.report(StopAsked(by="database"))
                return False
            if status != "paused":
                return True
            if not reported:
                self._reporter.report(StudyPaused())
                reported = True
            time.sleep(PAUSE_SECONDS)
        self._reporter.report(StopAsked(by="signal"))
        return False

    def _wait_for_votes(self) -> None:
        """Wait a moment before the next look for votes, and report once that people have to vote."""
        if not self._lacks_votes:
            self._reporter.report(VotesAwaited(name=self._records.study.name, trials=AHEAD))
            self._lacks_votes = True
        time.sleep(PAUSE_SECONDS)

    def _work(self, claimed: ClaimedTrial) -> bool:
        """Evaluate a trial, record its outcome and report it; False where it is another worker's by now."""
        number, images = claimed.number, len(self._runtime.evaluator.renderer.items)
        self._reporter.report(TrialStarted(trial=number, origin=str(claimed.origin), images=images))
        stored = self._evaluate(claimed)
        if claimed.interrupted:
            self._retry(lambda: self._recorder.remove_files_of_others(number))
            self._leftovers_are_due = True
        if not stored:
            _log.warning("trial %d was taken over by another worker, which took this one for dead", number)
            self._reporter.report(TrialLost(trial=number))
            return False
        trial = self._retry(lambda: self._recorder.settle(claimed.trial))
        drawn = self._retry(lambda: self._latest.draw(self._cached_trials.trials()))
        breach = self._runtime.objective.constraints.breach(trial.constrained)
        self._retry(lambda: self._reporter.report(TrialEnded.of(trial, breach)))
        if drawn is not None:
            self._reporter.report(SheetDrawn(where=drawn.where, trials=drawn.trials))
        return True

    def _evaluate(self, claimed: ClaimedTrial) -> bool:
        """Evaluate a trial, and record its outcome; False where it is another worker's by now."""
        started, rendered = time.perf_counter(), 0

        def on_images(done: int) -> None:
            nonlocal rendered
            rendered = done
            self._reporter.report(ImagesRendered(images=done))

        self._retry(self._take_references)
        race = self._retry(lambda: self._race(claimed))
        try:
            evaluation = self._runtime.evaluator.evaluate(
                claimed.recipe, on_images, None if race is None else race.goes_on
            )
        except UnscorableTrial as error:
            failure = Failure(kind=error.kind, reason=first_line(error))
            return self._recorder.fail(claimed, failure, rendered, time.perf_counter() - started)
        return self._recorder.store(claimed, evaluation, race, started)

    def _take_references(self) -> None:
        """Take the renders of parents that scorers compare with from the trials that have stored theirs.

        Where there are none, as while another worker renders the parent, the evaluator renders its own.
        """
        evaluator = self._runtime.evaluator
        wanted = [to for to in evaluator.references.recipes if evaluator.references.lacks(to, evaluator.renderer.items)]
        if not wanted:
            return
        parents = complete_parents(self._cached_trials.trials())
        for to in wanted:
            renders = load_renders(self._records, parents[to]) if to in parents else []
            with suppress(ScoredImageLost):
                if renders and all(render.file is not None for render in renders):
                    evaluator.references.remember(to, read_images(self._artifacts, renders))

    def _race(self, claimed: ClaimedTrial) -> Race | None:
        """Make a race against the best whole trial; None where the full suite is rendered, as it is for parents."""
        settings, objective = self._records.study.spec.racing, self._runtime.objective
        if settings is None or claimed.is_parent:
            return None
        best = best_trials(self._cached_trials.trials(), objective)
        if not best:
            return None
        evidence = self._gains.known_evidence(best[0])
        if evidence.lacking:  # nobody can say what its set scores are over some of the images
            return None
        stages = len(self._runtime.evaluator.renderer.stages)
        return Race.against(best[0], evidence, objective, settings, stages)

    def _require_parents(self) -> None:
        """Refuse to go on where every parent failed, or one whose own weights are broken: so is every merge with it.

        Raises:
            OptimizerError: it is so.
        """
        parents = parent_trials(self._cached_trials.trials())
        failed = {letter: trial for letter, trial in parents.items() if trial.state == "failed"}
        reasons = "; ".join(f"{letter}: {trial.reason}" for letter, trial in failed.items())
        if failed and len(failed) == len(self._runtime.parents):
            raise OptimizerError(f"every parent failed, so there is nothing to be better than ({reasons})")
        if any(trial.failure == "broken_weights" for trial in failed.values()):
            raise OptimizerError(
                f"a parent is broken, and so would be every merge with it ({reasons}): leave it out, or set "
                "`export.dtype` to bf16 or fp32 if its weights are too large for fp16"
            )
