"""Measure each stage's share of a trial's wall time, with a study run in this process.

    python benchmarks/trial.py [--spec FILE] [--trials 16] [--threads N] [--card-gb GB]

Without a spec it runs the demo study. `--card-gb` first allocates memory of a larger GPU, so that what remains is that
of a card of this size.

"overhead" is everything except denoising, decoding and scoring: merging, text embeddings, the sampler, contact sheet,
files and database.
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
from optimizer.work.trial_loop import TrialLoop
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
    occupied = None if options.card_gb is None else occupy_memory(options.card_gb * 1e9)
    spec = load_spec(options.spec)
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": options.trials})})
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/benchmark.db")
        plan = make_plan(spec)
        runtime = build_runtime(plan, hash_parents(plan), Path(folder) / "cache")
        objective = runtime.objective
        records = create_study(database, plan.spec, runtime.parents, objective.directions, objective.names)
        TrialLoop(records, runtime, Artifacts.beside(database.url), Reporters(())).run()
        trials = load_trials(records)
        database.close()
    occupied_bytes = 0 if occupied is None else occupied.nbytes
    peak = (torch.cuda.max_memory_allocated() - occupied_bytes) / 1e9 if runtime.device.type == "cuda" else None
    del occupied
    for trial in trials:
        if trial.state != "complete":
            print(f"trial {trial.number} {trial.state}: {trial.reason}")
    print(f"parents {runtime.evaluator.resident.placement.value}; {dict(trials[-1].machine)}; peak {peak} GB")
    report([trial for trial in trials if trial.state == "complete"], options, peak)


def occupy_memory(size: float) -> torch.Tensor:
    """Allocate what leaves no more than `size` bytes of the GPU's memory, those of the CUDA context included."""
    total = torch.cuda.get_device_properties().total_memory
    return torch.empty(max(0, int(total - size)), dtype=torch.uint8, device="cuda")


def report(trials: list[StoredTrial], options: argparse.Namespace, peak: float | None) -> None:
    """Print and record means over all trials but the first, which includes the warm-up."""
    if len(trials) < 2:
        raise SystemExit(f"{len(trials)} trials are complete, expected 2 or more for a mean: raise --trials")
    ends = [trial.finished_at or 0.0 for trial in trials]
    durations = [after - before for before, after in itertools.pairwise(ends)]
    mean = sum(durations) / len(durations)
    stages = {stage: sum(trial.seconds[stage] for trial in trials[1:]) / len(durations) for stage in trials[0].seconds}
    for stage, value in stages.items():
        print(f"{stage:8} {value:7.3f} s  {value / mean:6.1%}")
    work = sum(stages[stage] for stage in WORK)
    threads = torch.get_num_threads()
    print(
        f"{'trial':8} {mean:7.3f} s  overhead {1 - work / mean:.1%}; mean of {len(durations)} trials, {threads} threads"
    )
    record(
        options.records,
        "trial",
        spec=options.spec.stem,
        card_gb=options.card_gb,
        images=trials[0].rendered,
        stages=stages,
        trial_seconds=mean,
        overhead=1 - work / mean,
        trials=len(durations),
        peak_gb=peak,
        batches=", ".join(map(str, trials[-1].batch_limits)),
    )


if __name__ == "__main__":
    main()
