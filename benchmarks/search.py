"""How well each sampler searches: mean regret on synthetic, merge-like landscapes.

    python benchmarks/search.py --synthetic [--landscapes 4] [--controls 3] [--seeds 2] [--methods depth,gp ...]

Regret 0 is the optimum, 1 the median of random merges. It is read off the noise-free landscape at the trial whose
noisy value is the best so far, probes included. Intervals: 95 %, Student's t over landscapes and seeds.
One core, no GPU. Every ask goes through the sampler that a study would use.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from landscapes import PLACES, Floats, Landscape, make_landscape
from optuna.study import StudyDirection
from scipy import stats

from optimizer.search.probes import Probe, make_probes
from optimizer.search.sampler import ProbesFirst
from search_spaces.blocks import Architecture
from search_spaces.settings import Granularity
from search_spaces.space import SearchSpace
from studies.blueprint import Blueprint, slots_of
from studies.recipe import Parent
from studies.spec import SamplerSettings, StudySpec

CHECKPOINTS = (30, 60, 100)
FIRST_REPORTED_SEED = 1000  # samplers were tuned on landscapes of smaller seeds


@dataclass(frozen=True, kw_only=True)
class Method:
    """A sampler, with or without the probes a study begins with."""

    settings: SamplerSettings
    probes: bool
    granularity: Granularity = "blocks"


METHODS: Mapping[str, Method] = {
    "depth": Method(settings=SamplerSettings(name="depth"), probes=True),
    "depth auto": Method(settings=SamplerSettings(name="depth"), probes=True, granularity="auto"),
    "gp": Method(settings=SamplerSettings(name="gp"), probes=True),
    "gp cold": Method(settings=SamplerSettings(name="gp"), probes=False),
    "cmaes": Method(settings=SamplerSettings(name="cmaes"), probes=False),
    "tpe univariate": Method(settings=SamplerSettings(name="tpe", options={"multivariate": False}), probes=False),
    "random": Method(settings=SamplerSettings(name="random"), probes=False),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search."""

    regrets: tuple[float, ...]  # at the checkpoints
    seconds: float  # of all asks


def problem(seed: int, granularity: Granularity) -> tuple[SearchSpace, tuple[Probe, ...]]:
    """A study of two SD1.5 checkpoints, one ratio a block, and its probes."""
    spec = StudySpec.model_validate(
        {
            "study": "benchmark",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "space": {"granularity": granularity},
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
    return space, make_probes(spec, space, blueprint, frozenset({"vae"}))


def search(method: Method, landscape: Landscape, seed: int, trials: int) -> Run:
    """Ask, measure, tell. Every method sees the same noise for the same trial number."""
    space, probes = problem(seed, method.granularity)
    settings = method.settings.model_copy(update={"seed": seed})
    sampler = ProbesFirst(settings, space, probes if method.probes else ())
    study = optuna.create_study(sampler=sampler, directions=[StudyDirection.MAXIMIZE])
    generator = np.random.default_rng([seed, 7])
    tried: list[Floats] = []
    seconds = 0.0
    for _ in range(trials):
        start = time.perf_counter()
        trial = study.ask()
        params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in space.parameters}
        seconds += time.perf_counter() - start
        tried.append(np.array([params[place] for place in PLACES]))
        study.tell(trial, landscape.observe(tried[-1], generator)[0])
    values = np.array([row.value for row in study.trials])
    best = [tried[int(values[:count].argmax())] for count in CHECKPOINTS if count <= trials]
    return Run(regrets=tuple(landscape.regret(ratios) for ratios in best), seconds=seconds)


def _interval(values: Sequence[float]) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
    return f"{np.mean(values):.3f} ± {half:.3f}"


def compare(names: Sequence[str], landscapes: Sequence[Landscape], seeds: Sequence[int], trials: int) -> None:
    """Print one table."""
    print(f"\n{', '.join(landscape.name for landscape in landscapes)}; {len(seeds)} seeds each")
    print("| method | " + " | ".join(str(count) for count in CHECKPOINTS if count <= trials) + " | s per ask |")
    for name in names:
        runs = [search(METHODS[name], landscape, seed, trials) for landscape in landscapes for seed in seeds]
        cells = [_interval(column) for column in zip(*(run.regrets for run in runs), strict=True)]
        ask = sum(run.seconds for run in runs) / len(runs) / trials
        print(f"| {name} | {' | '.join(cells)} | {ask:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", action="store_true", required=True, help="hand-written landscapes")
    parser.add_argument("--landscapes", type=int, default=4, help="with depth structure")
    parser.add_argument("--controls", type=int, default=3, help="without")
    parser.add_argument("--coarse", type=int, default=0, help="where a number for each section is nearly enough")
    parser.add_argument("--seeds", type=int, default=2, help="searches on each landscape")
    parser.add_argument("--trials", type=int, default=max(CHECKPOINTS))
    parser.add_argument("--first-landscape", type=int, default=FIRST_REPORTED_SEED)
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = ((True, False, arguments.landscapes), (False, False, arguments.controls), (True, True, arguments.coarse))
    for structured, coarse, count in kinds:
        first = arguments.first_landscape
        made = [make_landscape(seed, structured=structured, coarse=coarse) for seed in range(first, first + count)]
        if made:
            compare(arguments.methods.split(","), made, range(arguments.seeds), arguments.trials)


if __name__ == "__main__":
    main()
