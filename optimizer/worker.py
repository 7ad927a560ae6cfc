"""A worker: take a trial, evaluate it, record it, tell Optuna; until the budget is spent or someone says stop.

What is on disk decides, not what is in memory. A trial goes through these steps, and may be cut off between any two:

    asked      Optuna has a RUNNING trial; its parameters follow from the database and its number
    begun      our row names the worker and the recipe
    recorded   our row, renders and scores are stored, in one transaction
    told       Optuna has the value

A trial that is RUNNING and whose worker is dead is taken again: told if it was recorded, evaluated otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna
import torch
from optuna.trial import Trial, TrialState
from optuna_dashboard import save_note
from sqlalchemy.exc import SQLAlchemyError

from optimizer.budget import expectations, spent
from optimizer.errors import OptimizerError, StorageError, TrialFailed
from optimizer.evaluation import Evaluation
from optimizer.gains import Evidence, gains
from optimizer.notes import trial_note
from optimizer.objective import ScoreSheet
from optimizer.rendering.sheet import contact_sheet, to_picture
from optimizer.search.probes import Probe
from optimizer.search.sampler import ProbesFirst, load_optuna_study
from optimizer.search.ties import split_of
from optimizer.setup import Machine, machine_description
from optimizer.standing import best_trials, parent_trials, would_be_best
from studies import results
from studies.artifacts import Artifacts
from studies.database import Database
from studies.recipe import Recipe
from studies.results import StoredStudy, StoredTrial, TrialResult

HEARTBEAT_SECONDS = 20.0


class Reporter(Protocol):
    """Told what happens, for people to see."""

    def trial_started(self, number: int, origin: str, images: int) -> None: ...

    def images_rendered(self, done: int) -> None: ...

    def trial_finished(self, trial: StoredTrial) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One trial to evaluate."""

    trial: Trial
    origin: str
    recipe: Recipe


class Worker:
    """Works on one study.

    Args:
        stop: asked between trials; True ends the work.
    """

    def __init__(
        self,
        database: Database,
        study: StoredStudy,
        machine: Machine,
        artifacts: Artifacts,
        reporter: Reporter,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database, self._study, self._machine = database, study, machine
        self._artifacts, self._reporter, self._stop = artifacts, reporter, stop
        sampler = ProbesFirst(machine.spec.sampler, machine.plan.space, machine.probes)
        self._optuna = load_optuna_study(database.storage, study.name, sampler)
        self._optuna_study = self._optuna._study_id  # noqa: SLF001 - the storage and the notes want it
        self._evidence: dict[int, Evidence] = {}  # of the parents' trials

    def run(self) -> int:
        """Work until the study's budget is spent or it is stopped; returns how many trials were finished.

        Raises:
            OptimizerError: every parent failed, so nothing can be compared with anything.
        """
        finished = 0
        with self._registered() as worker_id:
            while not (self._stop() or results.stop_requested(self._database, self._study)):
                task = self._take(worker_id)
                if task is None:
                    break
                self._work(task)
                finished += 1
                self._require_a_parent()
        return finished

    # ------------------------------------------------------------------------------- taking a trial

    def _take(self, worker_id: str) -> _Task | None:
        """An interrupted trial, or a new one; None when the budget is spent."""
        with self._database.exclusive():
            rows = results.load_trials(self._database, self._study)
            trial = self._interrupted(rows, worker_id)
            if trial is None:
                trials = self._optuna.get_trials(deepcopy=False)
                if spent(self._study.spec, rows, len(trials), expectations(trials)):
                    return None
                trial = self._optuna.ask()
            task = self._prepare(trial)
            results.begin_trial(self._database, self._study, trial.number, task.origin, task.recipe, worker_id)
            return task

    def _interrupted(self, trials: Sequence[StoredTrial], worker_id: str) -> Trial | None:
        """A RUNNING trial that nobody works on; what was recorded already is only told."""
        alive = results.live_workers(self._database)
        rows = {row.number: row for row in trials}
        for frozen in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            row = rows.get(frozen.number)
            if row is not None and row.worker_id in alive and row.worker_id != worker_id:
                continue
            trial = Trial(self._optuna, frozen._trial_id)  # noqa: SLF001 - Optuna has no public way back
            if row is None or row.state == "running":
                return trial
            self._settle(trial)
        return None

    def _prepare(self, trial: Trial) -> _Task:
        probe = self._probe(trial.number)
        if probe is not None and probe.params is None:
            return _Task(trial=trial, origin=probe.origin, recipe=probe.recipe)
        space = self._machine.plan.space
        params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in space.parameters}
        recipe = probe.recipe if probe else self._machine.blueprint.recipe(space.rows(params))
        origin = probe.origin if probe else self._machine.spec.sampler.name
        return _Task(trial=trial, origin=origin, recipe=recipe)

    def _probe(self, number: int) -> Probe | None:
        return self._machine.probes[number] if number < len(self._machine.probes) else None

    # ---------------------------------------------------------------------------------- doing it

    def _work(self, task: _Task) -> None:
        number = task.trial.number
        items = self._machine.evaluator.renderer.items
        self._reporter.trial_started(number, task.origin, len(items))
        start = time.perf_counter()
        try:
            evaluation = self._machine.evaluator.evaluate(task.recipe, self._reporter.images_rendered)
        except (TrialFailed, torch.OutOfMemoryError) as failure:
            results.fail_trial(self._database, self._study, number, str(failure).split("\n", maxsplit=1)[0])
        else:
            self._record(task, evaluation, start)
        self._reporter.trial_finished(self._settle(task.trial))

    def _settle(self, trial: Trial) -> StoredTrial:
        """Everything after a trial's outcome is stored; done again if it was cut off."""
        self._fill_gains(trial)
        self._keep_the_best()
        row = self._row(trial.number)
        self._describe(trial, row)
        self._tell(row)
        return row

    def _row(self, number: int) -> StoredTrial:
        row = results.load_trial(self._database, self._study, number)
        if row is None:
            raise OptimizerError(f"trial {number} vanished from the database while it was being worked on")
        return row

    def _record(self, task: _Task, evaluation: Evaluation, start: float) -> None:
        number, captions = task.trial.number, [item.prompt for item in self._machine.evaluator.renderer.items]
        title = f"{self._study.name}, trial {number}: {task.origin}"
        sheet = self._artifacts.save_sheet(task.trial, contact_sheet(title, evaluation.images, captions))
        objectives = self._machine.objective.values(evaluation.sheet.means)
        files = {}
        if self._worth_keeping(task, objectives):
            files = {
                item: self._artifacts.save_render(self._study.id, number, item, to_picture(image))
                for item, image in enumerate(evaluation.images)
            }
        if evaluation.features:
            rows = {name: feature.numpy() for name, feature in evaluation.features.items()}
            self._artifacts.save_features(self._study.id, number, rows)
        seconds = dict(evaluation.seconds)
        seconds["other"] = time.perf_counter() - start - sum(seconds.values())
        result = TrialResult(
            objectives=objectives,
            image_scores={name: tuple(map(float, values)) for name, values in evaluation.sheet.by_item.items()},
            set_scores=dict(evaluation.sheet.by_set),
            pixels_sha256=evaluation.pixels_sha256,
            files=files,
            seconds=seconds,
            machine=machine_description(self._machine.device),
            sheet=sheet,
        )
        results.finish_trial(self._database, self._study, number, result)

    def _worth_keeping(self, task: _Task, objectives: Mapping[str, float]) -> bool:
        """Whether a trial's renders are written to disk: those of parents and of the best so far, unless told."""
        keep = self._study.spec.render.keep
        if keep == "best" and not task.origin.startswith("parent "):
            rows = results.load_trials(self._database, self._study)
            return would_be_best(objectives, rows, self._machine.objective)
        return keep != "none"

    def _tell(self, row: StoredTrial) -> None:
        """Give Optuna the outcome. A parent outside the space has no parameters to learn from: told as pruned."""
        probe = self._probe(row.number)
        if row.state == "failed":
            self._optuna.tell(row.number, state=TrialState.FAIL, skip_if_finished=True)
        elif probe is not None and probe.params is None:
            self._optuna.tell(row.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            values = [row.objectives[name] for name in self._machine.objective.names]
            self._optuna.tell(row.number, values, skip_if_finished=True)

    def _describe(self, trial: Trial, row: StoredTrial) -> None:
        """The trial's note in the dashboard."""
        by_item, by_set = results.load_scores(self._database, row)
        means = {name: float(np.mean(values)) for name, values in by_item.items()} | by_set
        ids = {"study_id": self._optuna_study, "trial_id": trial._trial_id}  # noqa: SLF001
        split = split_of(self._database.storage.get_trial(trial._trial_id))  # noqa: SLF001
        save_note(trial, trial_note(self._machine, row, means, split, **ids))

    # ------------------------------------------------------------------------------------- gains

    def _fill_gains(self, trial: Trial) -> None:
        """Compare every finished trial with the parents, as soon as all parents are in."""
        rows = results.load_trials(self._database, self._study)
        parents = parent_trials(rows)
        if len(parents) < len(self._machine.parents) or any(row.state == "running" for row in parents.values()):
            return
        finished = {letter: row for letter, row in parents.items() if row.state == "complete"}
        if not finished:
            return
        evidence = {letter: self._parent_evidence(row) for letter, row in finished.items()}
        for row in rows:
            if row.state == "complete" and not row.gains:
                found = gains(self._load_evidence(row), evidence, self._machine.objective, self._machine.infos)
                results.store_gains(self._database, row, found)
                if row.number != trial.number:  # its note was written before the parents were in
                    self._describe(Trial(self._optuna, self._optuna_id(row.number)), self._row(row.number))

    def _optuna_id(self, number: int) -> int:
        return int(self._database.storage.get_trial_id_from_study_id_trial_number(self._optuna_study, number))

    def _parent_evidence(self, row: StoredTrial) -> Evidence:
        if row.number not in self._evidence:
            self._evidence[row.number] = self._load_evidence(row)
        return self._evidence[row.number]

    def _load_evidence(self, row: StoredTrial) -> Evidence:
        by_item, by_set = results.load_scores(self._database, row)
        sheet = ScoreSheet(by_item={name: np.array(values) for name, values in by_item.items()}, by_set=by_set)
        stored = self._artifacts.load_features(self._study.id, row.number)
        if missing := by_set.keys() - stored.keys():
            raise StorageError(
                f"features of {', '.join(sorted(missing))} for trial {row.number} are not in {self._artifacts.folder}: "
                "name the study's artifact folder with --artifacts"
            )
        features = {name: torch.from_numpy(rows) for name, rows in stored.items()}
        return self._machine.evaluator.evidence(sheet, features)

    def _keep_the_best(self) -> None:
        """Drop the renders of trials that are neither a parent nor among the best."""
        if self._study.spec.render.keep != "best":
            return
        rows = results.load_trials(self._database, self._study)
        kept = {row.number for row in (*parent_trials(rows).values(), *best_trials(rows, self._machine.objective))}
        dropped = results.numbers_with_files(self._database, self._study) - kept
        for row in rows:
            if row.number in dropped:
                for file in results.drop_files(self._database, row):
                    self._artifacts.delete(file)

    def _require_a_parent(self) -> None:
        parents = parent_trials(results.load_trials(self._database, self._study))
        if len(parents) == len(self._machine.parents) and all(row.state == "failed" for row in parents.values()):
            reasons = "; ".join(f"{letter}: {row.reason}" for letter, row in parents.items())
            raise OptimizerError(f"every parent failed, so there is nothing to be better than ({reasons})")

    # ------------------------------------------------------------------------------ signs of life

    @contextmanager
    def _registered(self) -> Iterator[str]:
        """Known to the database as alive, from before the first trial until after the last."""
        worker_id = results.register_worker(self._database)
        left = threading.Event()

        def beat() -> None:
            while not left.wait(HEARTBEAT_SECONDS):
                with suppress(SQLAlchemyError):  # the next beat may get through
                    results.sign_of_life(self._database, worker_id)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield worker_id
        finally:
            left.set()
            thread.join()
            results.remove_worker(self._database, worker_id)


def quiet_optuna() -> None:
    """Optuna logs every trial; the reporter does that better."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
