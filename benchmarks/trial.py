"""Where a trial's seconds go: a study, run in this process, each stage's share of the wall time.

    python benchmarks/trial.py [--spec FILE] [--trials 16] [--threads N] [--card-gb GB]

Without a spec it is the demo study. `--card-gb` takes memory of a larger GPU away first, so that the rest is that of a
card of so many GB.

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
from records import add_records_option, record

import studies
from optimizer.observe.events import Reporters
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import build_runtime
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
    parser.add_argument("--spec", type=Path, default=Path(studies.__file__).parent / "demo" / "demo.yaml")
    parser.add_argument("--card-gb", type=float, default=None)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    add_records_option(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    taken = None if options.card_gb is None else smaller_card(options.card_gb * 1e9)
    spec = load_spec(options.spec)
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": options.trials})})
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/benchmark.db")
        plan = make_plan(spec)
        runtime = build_runtime(plan, hash_parents(plan), Path(folder) / "cache")
        objective = runtime.objective
        records = create_study(database, plan.spec, runtime.parents, objective.directions, objective.names)
        Worker(records, runtime, Artifacts.beside(database.url), Reporters(())).run()
        rows = load_trials(records)
        database.close()
    beside = 0 if taken is None else taken.nbytes
    peak = (torch.cuda.max_memory_allocated() - beside) / 1e9 if runtime.device.type == "cuda" else None
    del taken
    for row in rows:
        if row.state != "complete":
            print(f"trial {row.number} {row.state}: {row.reason}")
    print(f"parents {runtime.evaluator.resident.placement.value}; {dict(rows[-1].machine)}; peak {peak} GB")
    report([row for row in rows if row.state == "complete"], options, peak)


def smaller_card(size: float) -> torch.Tensor:
    """Memory that must be held for the card to have no more than `size` bytes, those of the CUDA context included."""
    total = torch.cuda.get_device_properties().total_memory
    return torch.empty(max(0, int(total - size)), dtype=torch.uint8, device="cuda")


def report(rows: list[StoredTrial], options: argparse.Namespace, peak: float | None) -> None:
    """Means over all trials but the first, which warms up."""
    if len(rows) < 2:
        raise SystemExit(f"{len(rows)} trials are complete: too few for a mean")
    ends = [row.finished_at or 0.0 for row in rows]
    walls = [after - before for before, after in itertools.pairwise(ends)]
    wall = sum(walls) / len(walls)
    stages = {stage: sum(row.seconds[stage] for row in rows[1:]) / len(walls) for stage in rows[0].seconds}
    for stage, value in stages.items():
        print(f"{stage:8} {value:7.3f} s  {value / wall:6.1%}")
    work = sum(stages[stage] for stage in WORK)
    threads = torch.get_num_threads()
    print(f"{'trial':8} {wall:7.3f} s  overhead {1 - work / wall:.1%}; mean of {len(walls)} trials, {threads} threads")
    record(
        options.records,
        "trial",
        spec=options.spec.stem,
        card_gb=options.card_gb,
        images=rows[0].rendered,
        stages=stages,
        trial_seconds=wall,
        overhead=1 - work / wall,
        trials=len(walls),
        peak_gb=peak,
        batches=rows[-1].machine.get("batches", ""),
    )


if __name__ == "__main__":
    main()
