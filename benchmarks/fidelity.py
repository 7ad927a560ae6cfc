"""Staying close to a parent, on the demo: the best merge within a fidelity of parent A, against the best without.

    python benchmarks/fidelity.py [--trials 30] [--least 0.9] [--seed 0]

Three studies of the same budget, with the demo's checkpoints, its CLIP, one seed of each prompt and half the steps, as
in demo_landscape.py: the CLIP score alone, the same with `constraints: {fidelity: {min: 0.9}}`, and both as objectives.
The first two end with a final of five candidates on held-out seeds. Fidelity is the cosine of CLIP embeddings, by the
CLIP that the CLIP score is of.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from demo_landscape import STEPS

import studies
from optimizer.observe.events import Reporters
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import Runtime, build_runtime
from optimizer.search.shortlist import by_posterior
from optimizer.trial.front import front_of
from optimizer.trial.gain_text import gain_text
from optimizer.trial.judgement import better_parent
from optimizer.trial.objective import SINGLE
from optimizer.trial.ranking import best_trials
from optimizer.trial.stored_scores import trial_scores
from optimizer.work.trial_loop import TrialLoop
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.finals import Final
from studies.records.stored_studies import create_study
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.spec.study import StudySpec, load_spec

SILENT = FinalProgress(started=lambda *_: None, rendered=lambda _: None)


def spec_of(name: str, trials: int, seed: int, changes: dict[str, Any]) -> StudySpec:
    """Return the demo's spec with fidelity to parent A, fewer renders, and some changes."""
    demo = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml").model_dump(mode="json")
    clip = demo["scorers"]["clip_score"]
    scorers = {"clip_score": clip, "fidelity": {"kind": "fidelity", "to": "A", "clip": clip["clip"]}}
    return StudySpec.model_validate(
        demo
        | {
            "study": name,
            "suite": demo["suite"] | {"seeds": [1], "steps": STEPS},
            "scorers": scorers,
            "objective": {"clip_score": {"weight": 1}},
            "budget": {"trials": trials},
            "sampler": demo["sampler"] | {"seed": seed},
            "render": demo["render"] | {"keep": "none"},
        }
        | changes
    )


def search(folder: Path, spec: StudySpec) -> tuple[StudyRecords, Runtime]:
    """Run a study to the end of its budget."""
    plan = make_plan(spec)
    runtime = build_runtime(plan, hash_parents(plan), folder / "cache")
    database = open_database(f"sqlite:///{folder}/{spec.study}.db")
    objective = runtime.objective
    records = create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    TrialLoop(records, runtime, Artifacts.beside(database.url, folder / "artifacts"), Reporters(())).run()
    return records, runtime


def final_of(records: StudyRecords, runtime: Runtime) -> Final:
    """Hold the study's final."""
    trials = load_trials(records)
    rank = by_posterior(records, runtime.objective, trials)
    return hold_final(runtime, trials, rank, SILENT, lambda *_: None)


def row_of_single(title: str, records: StudyRecords, runtime: Runtime) -> str:
    """Return a row of the table: the best observed trial, and what the final chose, with held-out fidelity."""
    objective, trials = runtime.objective, load_trials(records)
    best = best_trials(trials, objective)[0]
    means = trial_scores(records, best).means
    final = final_of(records, runtime)
    winner, parent = final.winner, better_parent(final, objective)
    if winner is None or parent is None:
        return f"| {title} | {means['clip_score']:.2f} | {means['fidelity']:.3f} | none | | |"
    values = [sum(each.image_scores["fidelity"]) / len(each.image_scores["fidelity"]) for each in (winner, parent)]
    return (
        f"| {title} | {means['clip_score']:.2f} | {means['fidelity']:.3f} | {winner.objectives[SINGLE]:.2f} "
        f"| {gain_text(winner.held_out[SINGLE])} over {winner.held_out[SINGLE].parent} | {values[0]:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--least", type=float, default=0.9, help="fidelity that the merges of the second study keep")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| study | best observed: CLIP score | fidelity | final's choice: CLIP score | gain | fidelity |")
        print("|---|---|---|---|---|---|")
        bounds = {"constraints": {"fidelity": {"min": arguments.least}}}
        for title, study, changes in (("without", "free", {}), (f"fidelity >= {arguments.least:g}", "bounded", bounds)):
            records, runtime = search(folder, spec_of(study, arguments.trials, arguments.seed, changes))
            print(row_of_single(title, records, runtime), flush=True)
            trials = load_trials(records)
            means = [trial_scores(records, trial).means for trial in trials]
            inside = sum(each["fidelity"] >= arguments.least for each in means)
            print(f"\n{inside} of {len(trials)} trials of {title!r} have fidelity >= {arguments.least:g}", flush=True)
            for trial, each in zip(trials[:2], means, strict=False):
                print(f"{trial.title}: CLIP score {each['clip_score']:.2f}, fidelity {each['fidelity']:.3f}")
        both = {"objective": None, "objectives": ["fidelity", "clip_score"], "final": {"top": 0}}
        records, runtime = search(folder, spec_of("front", arguments.trials, arguments.seed, both))
        front = front_of(load_trials(records), runtime.objective)
        print("\n| trial of the front | fidelity | CLIP score |\n|---|---|---|")
        for trial in sorted(front.members if front else (), key=lambda each: -each.objectives["fidelity"]):
            print(f"| {trial.name} | {trial.objectives['fidelity']:.3f} | {trial.objectives['clip_score']:.2f} |")


if __name__ == "__main__":
    main()
