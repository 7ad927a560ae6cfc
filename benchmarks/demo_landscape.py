"""The embedded demo as a landscape: real merges, real renders, real scores, each evaluated once and kept.

    python benchmarks/search.py demo FOLDER [--methods depth,gp ...] [--seeds 5] [--trials 40] [--final] [--report]

Every method searches with every seed. The suite is the demo's prompts with one seed and half the steps, so that
thousands of merges can be rendered on a few cores; the held-out suites have other seeds. What was evaluated is kept in
FOLDER, so a run that was cut off goes on, and several processes may share the work (`--methods`, `--first-seed`).
`--final` holds the finals of a method's runs as `mergetune study finish` does; `--report` prints the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from searchers import METHODS, Params, Problem, chosen

import studies
from optimizer.errors import TrialFailed
from optimizer.rendering.render import Renderer
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import build_runtime
from optimizer.search.depth.posterior import DepthModel
from optimizer.search.sampler import distributions
from optimizer.trial.evaluation import Evaluator
from studies.recipe.recipe import Recipe
from studies.spec.study import StudySpec, load_spec
from studies.spec.suite import SuiteSettings

SEARCH, HELD_OUT, FRESH = "search", "held out", "fresh"
SEEDS = {SEARCH: (1,), HELD_OUT: (101, 102), FRESH: (201, 202)}
STEPS = 10
AT = (10, 15, 20, 30, 40, 60, 100, 200)  # trials


def suite_of(spec: StudySpec, seeds: tuple[int, ...]) -> SuiteSettings:
    return spec.suite.model_copy(update={"seeds": seeds, "steps": STEPS})


class DemoLandscape:
    """Scores merges of the demo's checkpoints.

    Args:
        folder: where evaluations are kept: a JSON line each, and the features of the set scorer.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "demo.jsonl"
        spec = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml")
        suites = {name: suite_of(spec, seeds) for name, seeds in SEEDS.items()}
        plan = make_plan(spec.model_copy(update={"suite": suites[SEARCH]}))
        self._runtime = build_runtime(plan, hash_parents(plan), folder / "cache")
        known = self._runtime.evaluator
        self._evaluators = {
            name: Evaluator(known.resident, Renderer(known.renderer.models, suite), known.scoring.scorers)
            for name, suite in suites.items()
        }
        self.problem = Problem(space=plan.space, probes=self._runtime.probes)
        self._known = {(row["suite"], row["recipe"]): row for row in read_lines(self._file)}

    def recipe(self, params: Params) -> Recipe:
        return self._runtime.blueprint.recipe(self.problem.space.rows(params))

    def evaluate(self, params: Params, suite: str = SEARCH) -> dict[str, Any]:
        """The row of a merge: recipe, params, objective (None if it failed), scores by item and by set."""
        recipe = self.recipe(params)
        key = (suite, recipe.digest)
        if key not in self._known:
            row = {"suite": suite, "recipe": recipe.digest, "params": dict(params), **self._scores(recipe, suite)}
            append_line(self._file, row)
            self._known[key] = row
        return self._known[key]

    def _scores(self, recipe: Recipe, suite: str) -> dict[str, Any]:
        evaluator = self._evaluators[suite]
        for other in self._evaluators.values():
            other.renderer.text_changed()  # the other suite may have rendered another merge
        try:
            found = evaluator.evaluate(recipe)
        except TrialFailed as failure:
            return {"objective": None, "failure": str(failure)}
        for name, rows in found.features.items():
            path = self.folder / "features" / suite / f"{recipe.digest}.{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rows.numpy())
        (objective,) = self._runtime.objective.values(found.scores.means).values()
        by_item = {name: list(map(float, values)) for name, values in found.scores.by_item.items()}
        return {"objective": objective, "by_item": by_item, "by_set": dict(found.scores.by_set)}

    def gain(self, params: Params, suite: str) -> float | None:
        """Over the better parent, on one suite."""
        value = self.evaluate(params, suite)["objective"]
        parents = [row.params for row in self.problem.probes if row.origin.kind == "parent" and row.params]
        found = [self.evaluate(parent, suite)["objective"] for parent in parents]
        return None if value is None else value - max(row for row in found if row is not None)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:  # one write: lines of several processes stay whole
        file.write(json.dumps(row) + "\n")


# ------------------------------------------------------------------------------------------ searching


def search(landscape: DemoLandscape, method: str, seed: int, trials: int) -> None:
    """One search; its gains, in order, and the held-out gain of the best observed merge become a line of runs.jsonl."""
    path = landscape.folder / "runs.jsonl"
    if any((row["method"], row["seed"], len(row["gains"])) == (method, seed, trials) for row in read_lines(path)):
        return
    tried: list[Params] = []

    def score(params: Params) -> float | None:
        tried.append(dict(params))
        value: float | None = landscape.evaluate(params)["objective"]
        return value

    seconds = METHODS[method](landscape.problem, seed, trials, score)
    gains = [landscape.gain(params, SEARCH) for params in tried]
    known = np.array([-np.inf if gain is None else gain for gain in gains])
    held_out = {
        str(count): landscape.gain(tried[int(known[:count].argmax())], HELD_OUT)
        for count in sorted({40, trials})
        if count <= trials
    }
    row = {
        "method": method,
        "seed": seed,
        "gains": gains,
        "held_out": held_out,
        "ask": seconds / trials,
        "tried": tried,
    }
    append_line(path, row)
    print(
        f"{method}, seed {seed}: best of {trials} {max(g for g in gains if g is not None):+.2f}", held_out, flush=True
    )


def final(landscape: DemoLandscape, run: Mapping[str, Any], top: int = 5) -> dict[str, float]:
    """The final as a study holds it, of one run: the candidates by posterior mean, chosen on the held-out suite.

    Returns:
        The chosen merge's gains: in the search, in the final, and on a third suite that no choice was made on.
    """
    space, tried, gains = landscape.problem.space, run["tried"], run["gains"]
    ranges = distributions(space)
    study = optuna.create_study(direction="maximize")
    for params, gain in zip(tried, gains, strict=True):
        state = TrialState.FAIL if gain is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=params, distributions=ranges, value=gain, state=state))
    trials = study.trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    means, _ = DepthModel.of(space, trials, study.directions).posterior(complete)
    found = {landscape.recipe(complete[at].params).digest: complete[at] for at in np.argsort(-means, kind="stable")}
    shown = [(landscape.gain(trial.params, HELD_OUT), trial) for trial in list(found.values())[:top]]
    held_out, chosen = max(((gain, trial) for gain, trial in shown if gain is not None), key=lambda pair: pair[0])
    fresh = landscape.gain(chosen.params, FRESH)
    assert chosen.value is not None
    assert fresh is not None
    return {"in_sample": chosen.value, "held_out": held_out, "fresh": fresh}


def finals(landscape: DemoLandscape, method: str) -> None:
    """Every run's final, a line each in finals.jsonl, and what is left of the gains."""
    path = landscape.folder / "finals.jsonl"
    done = {(row["method"], row["seed"]) for row in read_lines(path)}
    for run in read_lines(landscape.folder / "runs.jsonl"):
        if run["method"] == method and (method, run["seed"]) not in done:
            append_line(path, {"method": method, "seed": run["seed"], **final(landscape, run)})
    rows = [row for row in read_lines(path) if row["method"] == method]
    print("\n| seed | gain in the search | in the final | on a third suite | kept |")
    for row in rows:
        kept = row["fresh"] / row["in_sample"]
        print(
            f"| {row['seed']} | {row['in_sample']:+.2f} | {row['held_out']:+.2f} | {row['fresh']:+.2f} | {kept:.0%} |"
        )
    sums = {key: sum(row[key] for row in rows) for key in ("in_sample", "held_out", "fresh")}
    print(f"held out / in the search: {sums['held_out'] / sums['in_sample']:.0%} in the final, ", end="")
    print(f"{sums['fresh'] / sums['in_sample']:.0%} on a third suite")


# ------------------------------------------------------------------------------------------ reporting


@dataclass(frozen=True, kw_only=True)
class Searched:
    """All searches of one method."""

    best: Sequence[Sequence[float]]  # best gain so far after each trial, a row each seed
    held_out: Mapping[int, Sequence[float]]  # trials -> of the best merge then, by seed


def load_runs(folder: Path) -> dict[str, Searched]:
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in read_lines(folder / "runs.jsonl"):
        rows.setdefault(row["method"], {})[row["seed"]] = row
    found = {}
    for method, seeds in rows.items():
        gains = [[-np.inf if gain is None else gain for gain in row["gains"]] for row in seeds.values()]
        counts = {int(count) for row in seeds.values() for count in row["held_out"]}
        held_out = {count: [row["held_out"][str(count)] for row in seeds.values()] for count in sorted(counts)}
        found[method] = Searched(best=[np.maximum.accumulate(row).tolist() for row in gains], held_out=held_out)
    return found


def report(folder: Path, images: int) -> None:
    """Medians over seeds, with the range; `images` a trial."""
    for method, runs in load_runs(folder).items():
        print(f"\n{method}, {len(runs.best)} seeds")
        print("| trials | images | median gain of the best so far (least to most) | held out |")
        for count in [at for at in AT if at <= min(map(len, runs.best))]:
            held_out = runs.held_out.get(count)
            shown = _spread(held_out) if held_out else ""
            print(f"| {count} | {count * images} | {_spread([row[count - 1] for row in runs.best])} | {shown} |")


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default="depth,gp,gp cold,cmaes,tpe univariate,random,bayes_opt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--bayes-opt-trials", type=int, default=200)
    parser.add_argument("--final", action="store_true", help="hold the finals of the first method's runs")
    parser.add_argument("--report", action="store_true", help="print tables of what is there, search nothing")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.report:
        landscape = DemoLandscape(arguments.folder)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for method in chosen(arguments.methods):
                trials = arguments.bayes_opt_trials if method == "bayes_opt" else arguments.trials
                search(landscape, method, seed, trials)
        if arguments.final:
            finals(landscape, chosen(arguments.methods)[0])
    report(arguments.folder, images=len(load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml").suite.prompts))
