"""Where a trial's seconds go: the demo study, run in this process, each stage's share of the wall time.

    python benchmarks/trial.py [--trials 16] [--threads N]

"overhead" is everything that is not denoising, decoding or scoring: merging, text embeddings, asking the sampler,
contact sheet, files and database.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import optuna
import torch

import studies
from optimizer.observe.events import Reporters
from optimizer.runtime.setup import build_machine, hash_parents, make_plan
from optimizer.work.worker import Worker
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.stored_studies import create_study
from studies.records.stored_trials import load_trials
from studies.records.values import StoredTrial
from studies.spec.study import load_spec

WORK = ("denoise", "decode", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml")
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": options.trials})})
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/benchmark.db")
        plan = make_plan(spec)
        machine = build_machine(plan, hash_parents(plan), Path(folder) / "cache")
        objective = machine.objective
        study = create_study(database, plan.spec, machine.parents, objective.directions, objective.names)
        Worker(database, study, machine, Artifacts.beside(database.url), Reporters(())).run()
        rows = [row for row in load_trials(database, study) if row.state == "complete"]
        database.close()
    report(rows)


def report(rows: list[StoredTrial]) -> None:
    """Means over all trials but the first, which warms up."""
    ends = [row.finished_at or 0.0 for row in rows]
    walls = [after - before for before, after in itertools.pairwise(ends)]
    wall = sum(walls) / len(walls)
    stages = {stage: sum(row.seconds[stage] for row in rows[1:]) / len(walls) for stage in rows[0].seconds}
    for stage, value in stages.items():
        print(f"{stage:8} {value:7.3f} s  {value / wall:6.1%}")
    work = sum(stages[stage] for stage in WORK)
    threads = torch.get_num_threads()
    print(f"{'trial':8} {wall:7.3f} s  overhead {1 - work / wall:.1%}; mean of {len(walls)} trials, {threads} threads")


if __name__ == "__main__":
    main()
