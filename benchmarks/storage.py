"""What a trial costs besides rendering: asking, recording and telling, on long studies and with many workers.

    python benchmarks/storage.py overhead [--url URL] [--trials 100,1000,10000]
    python benchmarks/storage.py workers [--url URL] [--counts 1,2,4,8,16] [--seconds 1] [--trials-each 12]

`overhead` fills a study with finished trials, then lets a worker do a few more whose evaluation takes no time: the
seconds are asking, database, notes and files. `workers` runs processes whose trials take exactly so many seconds, and
prints how many trials a minute they finish against what they would without any overhead. A SQLite file in a temporary
folder unless --url names an empty database. The sampler is `random`: see search.py for what the others take.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import torch

from optimizer.evaluation import Evaluation
from optimizer.objective import Objective, ScoreSheet
from optimizer.rendering.batch_limits import BatchLimits
from optimizer.reporting import Reporter
from optimizer.scoring import Scoring
from optimizer.search.probes import make_probes
from optimizer.search.sampler import distributions
from optimizer.setup import Machine
from optimizer.worker import Worker
from search_spaces.blocks import Architecture, places
from search_spaces.space import SearchSpace
from studies import results
from studies.artifacts import Artifacts
from studies.blueprint import Blueprint, slots_of
from studies.database import Database, open_database
from studies.recipe import Parent
from studies.results import ParentFile, StoredTrial, TrialResult
from studies.spec import StudySpec

ITEMS = 16
AFTER = 12  # trials a worker does on top of a filled study


class Quiet(Reporter):
    """A Reporter that notes when each trial was finished."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def trial_finished(self, trial: StoredTrial) -> None:
        assert trial.state == "complete"
        self.ends.append(time.perf_counter())


class Simulated:
    """An evaluator that takes a given time and makes up scores: only what surrounds it is measured."""

    def __init__(self, spec: StudySpec, seconds: float) -> None:
        items = spec.suite.items()
        self.renderer = SimpleNamespace(items=items, stages=(items,), limits=BatchLimits())
        self.scoring = Scoring({})
        self._seconds = seconds
        self._images = tuple(torch.zeros(3, 64, 64, dtype=torch.uint8) for _ in items)

    def evaluate(self, recipe: Any, on_images: Callable[[int], None], go_on: object = None) -> Evaluation:  # noqa: ARG002
        on_images(ITEMS)
        time.sleep(self._seconds)
        generator = np.random.default_rng(int(recipe.digest[:8], 16))
        return Evaluation(
            items=tuple(range(ITEMS)),
            images=self._images,
            sheet=ScoreSheet(by_item={"sharpness": generator.normal(size=ITEMS)}, by_set={}),
            features={},
            seconds={"merge": 0.0, "denoise": self._seconds, "score": 0.0},
        )


def machine_of(budget: int, seconds: float) -> Machine:
    """A study of two checkpoints, a ratio for each block, as a worker sees it but for the evaluator."""
    spec = StudySpec.model_validate(
        {
            "study": "storage",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "suite": {"prompts": ["cat"], "seeds": list(range(ITEMS)), "sizes": [64]},
            "scorers": {"sharpness": None},
            "sampler": {"name": "random"},
            "probes": {"uniform": [], "profiles": 0},
            "budget": {"trials": budget},
            "render": {"keep": "none"},
        },
        context={"base_dir": Path("/")},
    )
    space = SearchSpace.build(spec.full_space, Architecture.SD15, slots_of(spec.operations, spec.letters))
    files = tuple(
        ParentFile(letter=letter, path=Path(f"/{letter}"), sha256=letter * 64, bytes=1, mtime_ns=0) for letter in "AB"
    )
    parents = tuple(Parent(letter=file.letter, name=file.letter, sha256=file.sha256) for file in files)
    blueprint = Blueprint(architecture=Architecture.SD15, parents=parents, operations=spec.operations)
    infos = {name: entry.info for name, entry in spec.scorers.items()}
    objective = Objective.of(spec, infos)
    plan: Any = SimpleNamespace(spec=spec, space=space, infos=infos, objective=objective)
    evaluator: Any = Simulated(spec, seconds)
    alike = frozenset(places(Architecture.SD15))
    return Machine(
        plan=plan,
        parents=files,
        blueprint=blueprint,
        probes=make_probes(spec, space, blueprint, alike),
        alike=alike,
        evaluator=evaluator,
        device=torch.device("cpu"),
    )


def begin(url: str, machine: Machine) -> Database:
    database = open_database(url)
    objective = machine.objective
    results.create_study(database, machine.spec, machine.parents, objective.directions, objective.names)
    return database


def work(database: Database, machine: Machine, folder: Path, stop: Callable[[], bool] = lambda: False) -> Quiet:
    reporter = Quiet()
    study = results.load_study(database, "storage")
    Worker(database, study, machine, Artifacts.beside(database.url, folder), reporter, stop).run()
    return reporter


def fill(database: Database, machine: Machine, upto: int) -> None:
    """Finished random trials up to a number, recorded as a worker records them but without notes and pictures."""
    study = results.load_study(database, "storage")
    told = optuna.load_study(study_name="storage", storage=database.storage)
    ranges = distributions(machine.plan.space)
    generator = np.random.default_rng(0)
    trials = []
    for number in range(len(told.get_trials(deepcopy=False)), upto):
        params = {name: float(generator.uniform()) for name in ranges}
        scores = generator.normal(size=ITEMS)
        recipe = machine.blueprint.recipe(machine.plan.space.rows(params))
        results.begin_trial(database, study, number, "random", recipe, "filled")
        result = TrialResult(
            objectives=machine.objective.values({"sharpness": float(scores.mean())}),
            image_scores={"sharpness": tuple(map(float, scores))},
            set_scores={},
            pixels_sha256=("0" * 64,) * ITEMS,
            seconds={},
            machine={},
        )
        results.finish_trial(database, study, number, "filled", result)
        row = results.load_trial(database, study, number)
        assert row is not None
        gain = results.Gain(value=0.0, low=0.0, high=0.0, parent="A")
        results.store_gains(database, row, {"objective": gain, "sharpness": gain})
        trials.append(
            optuna.trial.create_trial(params=params, distributions=ranges, values=list(result.objectives.values()))
        )
    told.add_trials(trials)


def overhead(url: str, folder: Path, counts: Sequence[int]) -> None:
    machine = machine_of(10**6, 0.0)
    database = begin(url, machine)
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done > AFTER + 1

    work(database, machine, folder, stop)
    print("| trials before | seconds of overhead a trial (median) |")
    for count in counts:
        fill(database, machine, count)
        done = 0
        ends = work(database, machine, folder, stop).ends
        steps = [after - before for before, after in itertools.pairwise(ends)]
        print(f"| {count} | {statistics.median(steps):.3f} |", flush=True)
    database.close()


def throughput(url: str, folder: Path, counts: Sequence[int], seconds: float, each: int) -> None:
    print("| workers | trials a minute | of the ideal |")
    for count in counts:
        target = f"{url}-{count}" if url.startswith("sqlite") else url
        machine = machine_of(2 + count * each, seconds)
        database = begin(target, machine)
        work(database, machine, folder, iter([False, False, True]).__next__)  # the parents
        database.close()
        gate = multiprocessing.get_context("fork").Barrier(count + 1)  # workers run for weeks: not their start counts
        children = []
        for _ in range(count):
            child = os.fork()
            if not child:
                own = open_database(target, create=False)
                gate.wait()
                work(own, machine, folder)
                os._exit(0)
            children.append(child)
        gate.wait()
        start = time.perf_counter()
        for child in children:
            os.waitpid(child, 0)
        wall = time.perf_counter() - start
        ideal = each * seconds
        print(f"| {count} | {60 * count * each / wall:.0f} | {ideal / wall:.0%} |", flush=True)
        if target == url:
            database = open_database(url)
            with database.write() as connection:
                connection.exec_driver_sql("DELETE FROM mergetune_studies")
            optuna.delete_study(study_name="storage", storage=database.storage)
            database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["overhead", "workers"])
    parser.add_argument("--url")
    parser.add_argument("--trials", default="100,1000,10000")
    parser.add_argument("--counts", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--trials-each", type=int, default=12)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        url = arguments.url or f"sqlite:///{name}/storage.db"
        if arguments.what == "overhead":
            overhead(url, Path(name) / "artifacts", [int(count) for count in arguments.trials.split(",")])
        else:
            counts = [int(count) for count in arguments.counts.split(",")]
            throughput(url, Path(name) / "artifacts", counts, arguments.seconds, arguments.trials_each)


if __name__ == "__main__":
    main()
