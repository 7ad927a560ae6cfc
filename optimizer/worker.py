"""A worker: take a trial, evaluate it, record it, tell Optuna; until the budget is spent or someone says stop.

What is on disk decides, not what is in memory. A trial goes through these steps, and may be cut off between any two:

    asked      Optuna has a RUNNING trial; its parameters follow from the database and its number
    begun      our row names the worker and the recipe
    recorded   our row, renders and scores are stored, in one transaction
    told       Optuna has the value

A trial that is RUNNING and whose worker is dead is taken again: told if it was recorded, evaluated otherwise. One over
which too many workers died fails: it may be what kills them. A worker that was wrongly taken for dead cannot store
anything any more, for a trial's outcome is stored by the worker that its row names or not at all.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from PIL.Image import Image

from optimizer.bookkeeping import Bookkeeper
from optimizer.budget import is_spent
from optimizer.errors import OptimizerError, TrialFailed
from optimizer.evaluation import Evaluation
from optimizer.objective import SINGLE
from optimizer.outages import LIMIT_SECONDS, Endurance
from optimizer.presence import RERUNS, Presence, deaths, present
from optimizer.racing import ESTIMATE_KEY, Race
from optimizer.rendering.sheet import contact_sheet, to_picture
from optimizer.reporting import Reporter
from optimizer.search.probes import Probe, without
from optimizer.search.sampler import ProbesFirst, distributions
from optimizer.setup import Machine, device_kind, machine_description
from optimizer.standing import best_trials, parent_trials, would_be_best
from studies import attendance, results
from studies.artifacts import Artifacts, TrialFiles, attach_sheet
from studies.attendance import turn_to
from studies.batch_limits import Batched, Size, load_batch_limits, store_batch_limit
from studies.control import status_of
from studies.database import Database
from studies.errors import ArtifactError
from studies.ledger import Ledger
from studies.optuna_tables import running_trials, store_params
from studies.recipe import Recipe
from studies.results import StoredStudy, StoredTrial, TrialResult

PAUSE_SECONDS = 2.0  # between two looks at whether a paused study goes on

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A trial to begin: one that was cut off, or a new one, which is no different."""

    trial: Trial
    params: Mapping[str, float]  # empty where none are stored
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One trial to evaluate."""

    trial: Trial
    origin: str
    recipe: Recipe
    worker_id: str
    again: bool = False  # whether another worker began it


class Worker:
    """Works on one study.

    Args:
        stop: asked between trials; True ends the work.
        patience_seconds: how long the database may be away.
    """

    def __init__(
        self,
        database: Database,
        study: StoredStudy,
        machine: Machine,
        artifacts: Artifacts,
        reporter: Reporter,
        stop: Callable[[], bool] = lambda: False,
        patience_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self._endure = Endurance(
            limit_seconds=patience_seconds, on_waiting=reporter.outage_began, on_back=reporter.outage_ended
        )
        self._database, self._study, self._machine = database, study, machine
        self._artifacts, self._reporter, self._stop = artifacts, reporter, stop
        self._ledger = Ledger(database, study)
        taken = [row for row in self._ledger.trials() if row.source is not None]
        self._taken = len(taken)  # the first numbers; probes that are among them are not rendered again
        self._gains_filled = False  # of those
        self._probes = without(machine.probes, {row.recipe.digest for row in taken})
        sampler = ProbesFirst(machine.spec.sampler, machine.plan.space, self._probes, self._taken)
        self._distributions = distributions(machine.plan.space)
        self._optuna = results.optuna_study(database, study.name, sampler)
        self._optuna_study = self._optuna._study_id  # noqa: SLF001 - the storage wants it
        scoring = machine.evaluator.scoring
        self._books = Bookkeeper(database, study, self._ledger, machine.plan, scoring, artifacts)
        limits, self._kind = machine.evaluator.renderer.limits, device_kind(machine.device)
        limits.adopt(load_batch_limits(database, study, self._kind))
        limits.on_lowered = self._batch_reduced

    def run(self) -> int:
        """Work until the study's budget is spent or it is stopped; returns how many trials were finished.

        Raises:
            OptimizerError: every parent failed, so nothing can be compared with anything.
            StudyMissingError: Optuna's part of the study was deleted.
            DatabaseLostError: the database went away and stayed away.
        """
        finished = 0
        with present(self._database, self._endure) as presence:
            self._endure(lambda: turn_to(self._database, presence.worker_id, self._study, "trials"))
            self._reporter.worker_started(presence.worker_id)
            try:
                while self._may_go_on() and (done := self.work_once(presence)) is not None:
                    finished += done
            finally:
                self._reporter.worker_left(finished)
        return finished

    def work_once(self, presence: Presence) -> bool | None:
        """Take one trial and evaluate it; None where there is nothing left to do, as `run` for all else.

        Returns:
            Whether the trial was finished: False where another worker has it by now.
        """
        if self._taken and not self._gains_filled:
            self._endure(self._books.fill_gains)
            self._gains_filled = True
        try:
            task = self._endure(lambda: self._take(presence))
            finished = None if task is None else self._work(task)
        except KeyError:  # what Optuna's storage says of what is not there
            self._endure(lambda: results.optuna_study(self._database, self._study.name))
            raise
        self._endure(self._require_a_parent)
        return finished

    def _may_go_on(self) -> bool:
        """Whether the study's workers are to take trials; waits while it is paused."""
        told = False
        while not self._stop():
            status = self._endure(lambda: status_of(self._database, self._study))
            if status == "active":
                return True
            if status == "stopped":
                self._reporter.stop_asked("database")
                return False
            if not told:
                self._reporter.paused()
                told = True
            time.sleep(PAUSE_SECONDS)
        self._reporter.stop_asked("signal")
        return False

    # ------------------------------------------------------------------------------- taking a trial

    def _take(self, presence: Presence) -> _Task | None:
        """An interrupted trial, or a new one; None when the budget is spent."""
        with self._database.exclusive():
            while True:
                rows = self._ledger.trials()
                interrupted = self._interrupted(rows, presence)
                if interrupted is None:
                    return None if is_spent(self._database, self._study, rows, self._optuna) else self._new(presence)
                task = replace(self._prepare(interrupted, presence.worker_id), again=True)
                if self._begin(task, interrupted.attempt):
                    self._reporter.trial_taken_over(task.trial.number, interrupted.attempt)
                    return task
                # Its worker lives after all, and has stored it since the rows were read.

    def _new(self, presence: Presence) -> _Task:
        # As `Study.ask`, which would first read every trial to look for one that was enqueued: none ever is.
        trial = Trial(self._optuna, self._database.storage.create_new_trial(self._optuna_study))
        task = self._prepare(_Start(trial=trial, params={}, attempt=1), presence.worker_id)
        self._begin(task, attempt=1)
        return task

    def _begin(self, task: _Task, attempt: int) -> bool:
        number, worker_id = task.trial.number, task.worker_id
        return results.begin_trial(self._database, self._study, number, task.origin, task.recipe, worker_id, attempt)

    def _interrupted(self, trials: Sequence[StoredTrial], presence: Presence) -> _Start | None:
        """A RUNNING trial that nobody works on; what was recorded already is only told."""
        alive = presence.alive() - {presence.worker_id}
        rows = {row.number: row for row in trials}
        for number, trial_id in running_trials(self._database, self._optuna_study).items():
            row = rows.get(number)
            if row is not None and row.worker_id in alive:
                continue
            trial = Trial(self._optuna, trial_id)  # Optuna has no public way back
            if row is None:
                return _Start(trial=trial, params=trial.params, attempt=1)
            if row.state == "running" and (attempt := self._next_attempt(row)) is not None:
                return _Start(trial=trial, params=trial.params, attempt=attempt)
            settled = self._settle(trial)
            if settled.state == "failed" and settled.reason == deaths(settled.attempt):
                self._reporter.trial_finished(settled)  # who worked on it cannot tell any more
        return None

    def _next_attempt(self, row: StoredTrial) -> int | None:
        """Which attempt a new one is; None where it has failed now, because too many workers died over it.

        A worker that left of its own accord has signed off, and does not count.
        """
        if not attendance.is_registered(self._database, row.worker_id):
            return row.attempt
        if row.attempt <= RERUNS:
            return row.attempt + 1
        results.fail_trial(self._database, self._study, row.number, row.worker_id, deaths(row.attempt))
        return None

    def _prepare(self, found: _Start, worker_id: str) -> _Task:
        trial = found.trial
        probe = self._probe(trial.number)
        if probe is not None and probe.params is None:
            return _Task(trial=trial, origin=probe.origin, recipe=probe.recipe, worker_id=worker_id)
        space = self._machine.plan.space
        params = found.params or self._proposed(trial)
        recipe = probe.recipe if probe else self._machine.blueprint.recipe(space.rows(params))
        origin = probe.origin if probe else self._machine.spec.sampler.name
        return _Task(trial=trial, origin=origin, recipe=recipe, worker_id=worker_id)

    def _proposed(self, trial: Trial) -> dict[str, float]:
        """The parameters that the sampler proposes, stored."""
        params = {name: trial.relative_params[name] for name in self._distributions}
        store_params(self._database, trial._trial_id, params, self._distributions)  # noqa: SLF001
        return params

    def _probe(self, number: int) -> Probe | None:
        index = number - self._taken
        return self._probes[index] if index < len(self._probes) else None

    # ---------------------------------------------------------------------------------- doing it

    def _work(self, task: _Task) -> bool:
        """Evaluate a trial and store its outcome; False where it is another worker's by now."""
        number = task.trial.number
        items = self._machine.evaluator.renderer.items
        self._reporter.trial_started(number, task.origin, len(items))
        start, rendered = time.perf_counter(), 0

        def on_images(done: int) -> None:
            nonlocal rendered
            rendered = done
            self._reporter.images_rendered(done)

        race = self._endure(lambda: self._race(task))
        try:
            evaluation = self._machine.evaluator.evaluate(
                task.recipe, on_images, None if race is None else race.goes_on
            )
        except TrialFailed as failure:
            reason = str(failure).split("\n", maxsplit=1)[0]
            cost = (rendered, {"other": time.perf_counter() - start})
            stored = self._endure(
                lambda: results.fail_trial(self._database, self._study, number, task.worker_id, reason, *cost)
            )
        else:
            stored = self._store(task, evaluation, race, start)
        if task.again:
            self._endure(lambda: self._drop_leftovers(number))
        if not stored:
            _log.warning("trial %d was taken over by another worker, which took this one for dead", number)
            self._reporter.trial_lost(number)
            return False
        row = self._endure(lambda: self._settle(task.trial))
        self._endure(lambda: self._reporter.trial_finished(row))
        return True

    def _batch_reduced(self, component: Batched, size: Size, most: int, reason: str) -> None:
        """Remember it for whoever goes on with the study on such a device."""
        self._endure(lambda: store_batch_limit(self._database, self._study, self._kind, component, size, most))
        self._reporter.batch_reduced(component, most, reason)

    def _settle(self, trial: Trial) -> StoredTrial:
        """Everything after a trial's outcome is stored; done again if it was cut off."""
        self._books.fill_gains(trial.number)
        self._keep_the_best()
        row = self._books.row(trial.number)
        self._books.describe(row)
        with suppress(UpdateFinishedTrialError):  # told before, or ended by another program
            if row.sheet is not None:
                attach_sheet(trial, row.sheet)
            if row.estimated:
                trial.set_user_attr(ESTIMATE_KEY, {"images": row.rendered, "incumbent": row.incumbent})
            self._tell(trial, row)
        return row

    def _race(self, task: _Task) -> Race | None:
        """A race against the best whole trial; None where the trial is rendered to its end: parents always are."""
        settings, objective = self._study.spec.racing, self._machine.objective
        if settings is None or task.origin.startswith("parent "):
            return None
        best = best_trials(self._ledger.trials(), objective)
        if not best:
            return None
        stages = len(self._machine.evaluator.renderer.stages)
        return Race.against(best[0], self._books.known_evidence(best[0]), objective.terms, settings, stages)

    def _files(self, task: _Task) -> TrialFiles:
        return self._artifacts.of_trial(self._study.key, task.trial.number, task.worker_id)

    def _store(self, task: _Task, evaluation: Evaluation, race: Race | None, start: float) -> bool:
        """Record a trial, or leave no file of it behind: another worker will have it, with files of its own."""
        try:
            stored = self._endure(lambda: self._record(task, evaluation, race, start))
        except ArtifactError:
            with suppress(ArtifactError):
                self._files(task).remove()
            raise
        if not stored:
            self._endure(self._files(task).remove)
        return stored

    def _drop_leftovers(self, number: int) -> None:
        """Files of workers that did not finish a trial."""
        row = self._books.row(number)
        if row.state != "running":
            self._artifacts.remove_others(self._study.key, number, row.worker_id)

    def _record(self, task: _Task, evaluation: Evaluation, race: Race | None, start: float) -> bool:
        number = task.trial.number
        mine = self._files(task)
        sheet = mine.save_sheet(self._contact_sheet(task, evaluation))
        objectives, incumbent = self._told(evaluation, race)
        files = {}
        if self._worth_keeping(task, objectives):
            files = {
                item: mine.save_render(item, to_picture(image))
                for item, image in zip(evaluation.items, evaluation.images, strict=True)
            }
        if evaluation.features:
            mine.save_features({name: feature.numpy() for name, feature in evaluation.features.items()})
        seconds = dict(evaluation.seconds)
        seconds["other"] = time.perf_counter() - start - sum(seconds.values())
        result = TrialResult(
            objectives=objectives,
            items=evaluation.items,
            image_scores={name: tuple(map(float, values)) for name, values in evaluation.sheet.by_item.items()},
            set_scores=dict(evaluation.sheet.by_set),
            pixels_sha256=evaluation.pixels_sha256,
            files=files,
            seconds=seconds,
            machine=machine_description(
                self._machine.device, self._machine.evaluator.renderer.limits, self._machine.variation
            ),
            sheet=sheet,
            incumbent=incumbent,
        )
        return results.finish_trial(self._database, self._study, number, task.worker_id, result)

    def _told(self, evaluation: Evaluation, race: Race | None) -> tuple[dict[str, float], int | None]:
        """Objectives for the search, and the trial against which they were estimated, if they were."""
        if race is None or len(evaluation.items) == len(self._machine.evaluator.renderer.items):
            return self._machine.objective.values(evaluation.sheet.means), None
        evidence = self._machine.evaluator.scoring.evidence(evaluation.sheet, evaluation.features)
        return {SINGLE: race.estimate(evaluation.items, evidence)}, race.incumbent

    def _contact_sheet(self, task: _Task, evaluation: Evaluation) -> Image:
        suite, shown = self._machine.evaluator.renderer.items, len(evaluation.items)
        title = f"{self._study.name}, trial {task.trial.number}: {task.origin}"
        if shown < len(suite):
            title += f", stopped after {shown} of {len(suite)} images"
        return contact_sheet(title, evaluation.images, [suite[item].prompt for item in evaluation.items])

    def _worth_keeping(self, task: _Task, objectives: Mapping[str, float]) -> bool:
        """Whether a trial's renders are written to disk: those of parents and of the best so far, unless told."""
        keep = self._study.spec.render.keep
        if keep == "best" and not task.origin.startswith("parent "):
            rows = self._ledger.trials()
            return would_be_best(objectives, rows, self._machine.objective)
        return keep != "none"

    def _tell(self, trial: Trial, row: StoredTrial) -> None:
        """Give Optuna the outcome. A parent outside the space has no parameters to learn from: told as pruned.

        By its storage: `Study.tell` would read the trial three times, and has a sampler that remembers nothing look
        at it.
        """
        probe, values = self._probe(row.number), None
        if row.state == "failed":
            state = TrialState.FAIL
        elif probe is not None and probe.params is None:
            state = TrialState.PRUNED
        else:
            state = TrialState.COMPLETE
            values = [row.objectives[name] for name in self._machine.objective.names]
        self._database.storage.set_trial_state_values(trial._trial_id, state, values)  # noqa: SLF001

    def _keep_the_best(self) -> None:
        """Drop the renders of trials that are neither a parent nor among the best."""
        if self._study.spec.render.keep != "best":
            return
        rows = self._ledger.trials()
        kept = {row.number for row in (*parent_trials(rows).values(), *best_trials(rows, self._machine.objective))}
        dropped = results.kept_files(self._database, self._study).keys() - kept
        for row in rows:
            if row.state == "complete" and row.number in dropped:  # not one that was stored since the rows were read
                for file in results.drop_files(self._database, row):
                    # Waited for here: who comes again does not find their names any more.
                    self._endure(functools.partial(self._artifacts.store.remove, file))

    def _require_a_parent(self) -> None:
        parents = parent_trials(self._ledger.trials())
        if len(parents) == len(self._machine.parents) and all(row.state == "failed" for row in parents.values()):
            reasons = "; ".join(f"{letter}: {row.reason}" for letter, row in parents.items())
            raise OptimizerError(f"every parent failed, so there is nothing to be better than ({reasons})")
