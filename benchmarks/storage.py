"""Benchmark of a trial's overhead (asking, recording, telling), on long studies and with many workers.

    python benchmarks/storage.py overhead [--url URL] [--trials 100,1000,10000]
    python benchmarks/storage.py workers [--url URL] [--counts 1,2,4,8,16] [--seconds 1] [--trials-each 12]

`overhead` fills a study with copies of a finished trial, then lets a worker run a few more whose evaluation takes no
time, so that only asking, database, notes and files are timed. `workers` runs processes whose trials take exactly
--seconds, and prints how many trials they finish in a minute, and what share that is of the number without overhead.
The database is a SQLite file in a temporary folder, unless --url names an empty database. The sampler is `random`; see
search.py for the time of others.
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
import sqlalchemy as sa
import torch

from optimizer.observe.events import Event, TrialEnded
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.runtime.setup import Runtime
from optimizer.search.probes import make_probes
from optimizer.search.sampler import distributions
from optimizer.trial.evaluation import Evaluation
from optimizer.trial.objective import Objective, Scores
from optimizer.trial.scoring import Scoring
from optimizer.work.trial_loop import TrialLoop
from search_spaces.blocks import Architecture, places
from studies.files.artifacts import Artifacts
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import Parent
from studies.records import stored_studies
from studies.records.database import Database, open_database
from studies.records.values import ParentFile
from studies.spec.study import StudySpec

Row = dict[str, Any]  # of a table

ITEMS = 16
TIMED_TRIALS = 12  # that a worker runs after the study is filled


class FinishTimes:
    """A reporter that records when each trial finished."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def report(self, event: Event) -> None:
        if isinstance(event, TrialEnded):
            assert event.stored.state == "complete"
            self.ends.append(time.perf_counter())


class SimulatedEvaluator:
    """An evaluator that takes a given time and returns random scores, so that only its surroundings are timed."""

    def __init__(self, spec: StudySpec, seconds: float) -> None:
        items = spec.suite.items()
        self.renderer = SimpleNamespace(items=items, stages=(items,), largest_batches=LargestBatches())
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
            scores=Scores(by_item={"sharpness": generator.normal(size=ITEMS)}, by_set={}),
            features={},
            seconds={"merge": 0.0, "denoise": self._seconds, "score": 0.0},
        )


def runtime_of(budget: int, seconds: float) -> Runtime:
    """Make the runtime of a study of two checkpoints with a ratio for each block, and a simulated evaluator."""
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
    space = spec.search_space(Architecture.SD15)
    files = tuple(
        ParentFile(letter=letter, path=Path(f"/{letter}"), sha256=letter * 64, bytes=1, mtime_ns=0) for letter in "AB"
    )
    parents = tuple(Parent(letter=file.letter, name=file.letter, sha256=file.sha256) for file in files)
    blueprint = Blueprint(architecture=Architecture.SD15, parents=parents, operations=spec.operations)
    infos = spec.infos
    objective = Objective.of(spec, infos)
    plan: Any = SimpleNamespace(spec=spec, space=space, infos=infos, objective=objective)
    evaluator: Any = SimulatedEvaluator(spec, seconds)
    equal_places = frozenset(places(Architecture.SD15))
    return Runtime(
        plan=plan,
        parents=files,
        blueprint=blueprint,
        probes=make_probes(spec, space, blueprint, equal_places),
        equal_places=equal_places,
        evaluator=evaluator,
        device=torch.device("cpu"),
        variation=0.0,
    )


def begin(url: str, runtime: Runtime) -> Database:
    database = open_database(url)
    objective = runtime.objective
    stored_studies.create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    return database


def work(database: Database, runtime: Runtime, folder: Path, stop: Callable[[], bool] = lambda: False) -> FinishTimes:
    """Run a worker until its study ends or `stop` returns True."""
    reporter = FinishTimes()
    records = stored_studies.open_study(database, "storage")
    TrialLoop(records, runtime, Artifacts.beside(database.url, folder), reporter, stop).run()
    return reporter


def fill(database: Database, runtime: Runtime, upto: int) -> None:
    """Copy the last trial up to a number: its rows in every table, each copy with its own parameters and scores."""
    metadata = sa.MetaData()
    metadata.reflect(database.engine)
    generator = np.random.default_rng(0)
    last = sa.select(sa.func.max(metadata.tables["trials"].c.number)).scalar_subquery()
    with database.write() as connection:
        copiers = [
            TrialCopier(connection, metadata, name, key, last)
            for name, key in (("trials", "trial_id"), ("mergetune_trials", "id"))
        ]
        first = connection.execute(sa.select(last)).scalar_one() + 1
        for start in range(first, upto, 500):
            copies = [TrialCopy(number, runtime, generator) for number in range(start, min(start + 500, upto))]
            for copier in copiers:
                copier.copy(connection, copies)


class TrialCopy:
    """The columns in which a copy of a trial differs from the original: table -> columns of one of its rows."""

    def __init__(self, number: int, runtime: Runtime, generator: np.random.Generator) -> None:
        self.number = number
        params = {name: float(generator.uniform()) for name in distributions(runtime.plan.space)}
        scores = generator.normal(size=ITEMS).tolist()
        recipe = runtime.blueprint.recipe(runtime.plan.space.numbers_by_place(params))
        objectives = runtime.objective.values({"sharpness": statistics.fmean(scores)})
        values = tuple(objectives.values())
        recipe_columns = {"recipe": recipe.to_json(), "recipe_digest": recipe.digest, "objectives": objectives}
        self.columns: dict[str, Callable[[Row], Row]] = {
            "trial_params": lambda row: {"param_value": params[row["param_name"]]},
            "trial_values": lambda row: {"value": values[row["objective"]]},
            "mergetune_trials": lambda _: recipe_columns,
            "mergetune_scores": lambda row: {"value": scores[row["item"]]},
        }


class TrialCopier:
    """A trial's row in one table, the rows that refer to it, and its note for the dashboard, ready to be copied."""

    def __init__(self, connection: sa.Connection, metadata: sa.MetaData, name: str, key: str, number: Any) -> None:
        self.trials, self.key = metadata.tables[name], key
        self.row = read(connection, self.trials, self.trials.c.number == number)[0]
        self.children = {
            table: read(connection, table, table.c.trial_id == self.row[key])
            for table in metadata.sorted_tables
            if any(foreign.column.table is self.trials for foreign in table.foreign_keys)
        }
        self.notes = metadata.tables["study_system_attributes"]
        self.note = f"dashboard:{self.row[key]}:" if name == "trials" else "none"
        self.children[self.notes] = read(connection, self.notes, self.notes.c.key.startswith(self.note))

    def copy(self, connection: sa.Connection, trials: Sequence[TrialCopy]) -> None:
        """Insert the rows of these copies."""
        table = self.trials
        connection.execute(
            table.insert(), [copied(table, self.row, trial) | {"number": trial.number} for trial in trials]
        )
        between = table.c.number.between(trials[0].number, trials[-1].number)
        ids = {row["number"]: row[self.key] for row in read(connection, table, between)}
        for child, rows in self.children.items():
            copies = [copied(child, row, trial) | self.link(row, ids[trial.number]) for trial in trials for row in rows]
            if copies:
                connection.execute(child.insert(), copies)

    def link(self, row: Row, trial_id: int) -> Row:
        """Return the columns that link a row to its trial."""
        if "trial_id" in row:
            return {"trial_id": trial_id}
        return {"key": row["key"].replace(self.note, f"dashboard:{trial_id}:")}


def read(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> list[Row]:
    return [dict(row) for row in connection.execute(sa.select(table).where(where)).mappings()]


def copied(table: sa.Table, row: Row, trial: TrialCopy) -> Row:
    """Copy a row for another trial, without its autoincremented id."""
    automatic = table.autoincrement_column
    columns = {name: value for name, value in row.items() if automatic is None or name != automatic.name}
    return columns | (trial.columns[table.name](row) if table.name in trial.columns else {})


def overhead(url: str, folder: Path, counts: Sequence[int]) -> None:
    runtime = runtime_of(10**6, 0.0)
    database = begin(url, runtime)
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done > TIMED_TRIALS + 1

    work(database, runtime, folder, stop)
    print("| trials before | seconds of overhead a trial (median) |")
    for count in counts:
        fill(database, runtime, count)
        done = 0
        ends = work(database, runtime, folder, stop).ends
        steps = [after - before for before, after in itertools.pairwise(ends)]
        print(f"| {count} | {statistics.median(steps):.3f} |", flush=True)
    database.close()


def throughput(url: str, folder: Path, counts: Sequence[int], seconds: float, each: int) -> None:
    print("| workers | trials a minute | of the ideal |")
    for count in counts:
        target = f"{url}-{count}" if url.startswith("sqlite") else url
        runtime = runtime_of(2 + count * each, seconds)
        database = begin(target, runtime)
        work(database, runtime, folder, iter([False, False, True]).__next__)  # the parents
        database.close()
        gate = multiprocessing.get_context("fork").Barrier(
            count + 1
        )  # workers run for weeks, so their start is not timed
        children = []
        for _ in range(count):
            child = os.fork()
            if not child:
                own = open_database(target, create=False)
                gate.wait()
                work(own, runtime, folder)
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
