"""Compare a study that runs without interruption with one that is killed at random moments: trials must be equal.

    python tests/determinism.py FOLDER [--trials 40] [--kills 20] [--seed N]

There is one worker at a time, which ends by SIGKILL, and the sampler is the one with a model. A kill comes after a
random trial has begun, within 1.5 times a trial's duration: while it renders, scores or is recorded, or while the next
trial is proposed. Prints the seed, and ends with an error if anything differs, down to the last bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import torch
from soak import LONGEST_SECONDS, Soak, small_runtime

from optimizer.runtime.setup import Runtime
from optimizer.search.stopping import EXPECTED_KEY
from studies.records import stored_renders, stored_studies, stored_trials
from studies.records.database import open_database

KILL_WITHIN = 1.5  # durations of a trial


def begin(folder: Path, runtime: Runtime) -> Soak:
    """Store a new study in a database of its own."""
    folder.mkdir(parents=True)
    database = open_database(f"sqlite:///{folder}/study.db")
    objective = runtime.objective
    stored_studies.create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    database.close()  # no connection is shared with a child
    return Soak(folder=folder, url=database.url, runtime=runtime)


def finish(study: Soak) -> None:
    """Let one worker finish the study."""
    worker = study.fork()
    if os.waitpid(worker, 0)[1]:
        raise SystemExit("the worker failed")


def kill_in(study: Soak, number: int, delay: float) -> None:
    """Start a worker, and kill it `delay` seconds after the trial `number` has begun, by it or before."""
    worker, deadline = study.fork(), time.monotonic() + LONGEST_SECONDS
    with closing(sqlite3.connect(study.folder / "study.db")) as connection:
        while connection.execute("SELECT COUNT(*) FROM mergetune_trials").fetchone()[0] <= number:
            if os.waitpid(worker, os.WNOHANG)[0] or time.monotonic() > deadline:
                raise SystemExit(f"trial {number} never began")
            time.sleep(0.002)
    time.sleep(delay)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def results(study: Soak) -> list[dict[str, Any]]:
    """Return what must not depend on the worker and on time, for every trial."""
    database = open_database(study.url, create=False)
    records = stored_studies.open_study(database, study.runtime.spec.study)
    told = optuna.load_study(study_name=records.study.name, storage=database.storage).trials
    trials = [
        {
            "params": trial.params,
            "expected": trial.system_attrs.get(EXPECTED_KEY),
            "told": (trial.state, trial.values),
            "row": (row.number, row.state, str(row.origin), row.recipe_text),
            "objectives": row.objectives,
            "gains": (row.gains, row.errors),
            "scores": stored_renders.load_scores(records, row),
            "pixels": [(render.item, render.pixels_sha256) for render in stored_renders.load_renders(records, row)],
        }
        for row, trial in zip(stored_trials.load_trials(records), told, strict=True)
    ]
    database.close()
    return trials


def attempts(study: Soak) -> int:
    """Count the trials that were run again."""
    database = open_database(study.url, create=False)
    rows = stored_trials.load_trials(stored_studies.open_study(database, study.runtime.spec.study))
    database.close()
    return sum(row.attempt > 1 for row in rows)


def differences(through: list[dict[str, Any]], torn: list[dict[str, Any]]) -> list[str]:
    """Return the differences, one line each."""
    if len(through) != len(torn):
        return [f"{len(through)} trials run through, {len(torn)} after the kills"]
    return [
        f"trial {number}, {key}: {one[key]} run through, {other[key]} after the kills"
        for number, (one, other) in enumerate(zip(through, torn, strict=True))
        for key in one
        if one[key] != other[key]
    ]


def main() -> None:
    """Run both studies, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)  # a process that has used several cannot be forked
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runtime = small_runtime(arguments.folder, arguments.trials, sampler="depth")
    through, torn = (begin(arguments.folder / name, runtime) for name in ("through", "torn"))
    start = time.monotonic()
    finish(through)
    seconds = (time.monotonic() - start) / arguments.trials
    generator = random.Random(seed)
    for number in sorted(generator.sample(range(arguments.trials - 1), arguments.kills)):
        kill_in(torn, number, generator.uniform(0, KILL_WITHIN * seconds))
    finish(torn)
    one, other = results(through), results(torn)
    modelled = sum(trial["expected"] is not None for trial in one)
    print(
        f"{arguments.trials} trials, {modelled} proposed by the model, {arguments.kills} killed, "
        f"{attempts(torn)} trials run again"
    )
    sys.exit("\n".join(differences(one, other)) or None)


if __name__ == "__main__":
    main()
