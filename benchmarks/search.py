"""Benchmark of the samplers, on hand-written, merge-like landscapes and on the real one of the demo.

    python benchmarks/search.py synthetic [--landscapes 4] [--controls 3] [--seeds 2] [--methods depth,gp ...]
    python benchmarks/search.py demo FOLDER [--seeds 5] [--trials 40] [--final] (see demo_landscape.py)

On hand-written landscapes the figure is mean regret: 0 at the optimum, 1 at the median random merge. It is the regret
on the noise-free landscape of the trial with the best noisy value so far, probes included. Intervals are 95 % Student's
t intervals over landscapes and seeds. It runs on one core without a GPU. Every ask goes through the sampler that a
study would use.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import demo_landscape
import numpy as np
import optuna
import torch
from landscapes import PLACES, Floats, Landscape, make_landscape
from scipy import stats
from searchers import METHODS, Params, Problem, Searcher, method_names

from optimizer.search.probes import make_probes
from search_spaces.blocks import Architecture
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import Blueprint, slots_of
from studies.recipe.recipe import Parent
from studies.spec.study import StudySpec

CHECKPOINTS = (30, 60, 100)
FIRST_REPORTED_SEED = 1000  # samplers were tuned on landscapes with smaller seeds


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of one search."""

    regrets: tuple[float, ...]  # at the checkpoints
    seconds: float  # of all asks


def problem(seed: int) -> Problem:
    """Make a study of two SD1.5 checkpoints, with one ratio for each block, and its probes."""
    spec = StudySpec.model_validate(
        {
            "study": "benchmark",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "suite": {"prompts": ["cat"]},
            "scorers": {"sharpness": None},
            "sampler": {"seed": seed},
        },
        context={"base_dir": Path("/")},
    )
    slots = slots_of(spec.operations, spec.letters)
    space = SearchSpace.build(spec.full_space, Architecture.SD15, slots)
    parents = tuple(Parent(letter=letter, name=letter, sha256=letter * 64) for letter in spec.letters)
    blueprint = Blueprint(architecture=Architecture.SD15, parents=parents, operations=spec.operations)
    return Problem(space=space, probes=make_probes(spec, space, blueprint, frozenset({"vae"})))


def search(method: Searcher, landscape: Landscape, seed: int, trials: int) -> Run:
    """Run one search; the noise of a trial depends on its number, not on the method."""
    generator = np.random.default_rng([seed, 7])
    tried: list[Floats] = []
    values: list[float] = []

    def score(params: Params) -> float:
        tried.append(np.array([params[place] for place in PLACES]))
        values.append(landscape.observe(tried[-1], generator)[0])
        return values[-1]

    seconds = method(problem(seed), seed, trials, score)
    best = [tried[int(np.argmax(values[:count]))] for count in CHECKPOINTS if count <= trials]
    return Run(regrets=tuple(landscape.regret(ratios) for ratios in best), seconds=seconds)


def _interval(values: Sequence[float]) -> str:
    """Format the mean and the half-width of its 95 % Student's t interval."""
    count = len(values)
    half_width = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count) if count > 1 else 0
    return f"{np.mean(values):.3f} ± {half_width:.3f}"


def compare(names: Sequence[str], landscapes: Sequence[Landscape], seeds: Sequence[int], trials: int) -> None:
    """Print a table of the methods' regret on these landscapes."""
    print(f"\n{', '.join(landscape.name for landscape in landscapes)}; {len(seeds)} seeds each")
    print("| method | " + " | ".join(str(count) for count in CHECKPOINTS if count <= trials) + " | s per ask |")
    for name in names:
        runs = [search(METHODS[name], landscape, seed, trials) for landscape in landscapes for seed in seeds]
        cells = [_interval(column) for column in zip(*(run.regrets for run in runs), strict=True)]
        ask = sum(run.seconds for run in runs) / len(runs) / trials
        print(f"| {name} | {' | '.join(cells)} | {ask:.2f} |", flush=True)


def synthetic(arguments: argparse.Namespace) -> None:
    """Compare the methods on each kind of hand-written landscape."""
    kinds = ((True, False, arguments.landscapes), (False, False, arguments.controls), (True, True, arguments.coarse))
    for structured, coarse, count in kinds:
        first = arguments.first_landscape
        seeds = range(first, first + count)
        landscapes = [make_landscape(seed, structured=structured, coarse=coarse) for seed in seeds]
        if landscapes:
            compare(method_names(arguments.methods), landscapes, range(arguments.seeds), arguments.trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    by_hand = kinds.add_parser("synthetic", help="hand-written landscapes")
    by_hand.add_argument("--landscapes", type=int, default=4, help="with depth structure")
    by_hand.add_argument("--controls", type=int, default=3, help="without depth structure")
    by_hand.add_argument("--coarse", type=int, default=0, help="where one ratio for each section is almost enough")
    by_hand.add_argument("--seeds", type=int, default=2, help="searches on each landscape")
    by_hand.add_argument("--trials", type=int, default=max(CHECKPOINTS))
    by_hand.add_argument("--first-landscape", type=int, default=FIRST_REPORTED_SEED)
    by_hand.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    by_hand.set_defaults(run=synthetic)
    demo = kinds.add_parser("demo", help="real merges, renders and scores of the demo")
    demo_landscape.add_arguments(demo)
    demo.set_defaults(run=demo_landscape.run)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
