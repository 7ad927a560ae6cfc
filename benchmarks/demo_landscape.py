"""The embedded demo as a landscape: real merges, renders and scores, each evaluated once and stored.

    python benchmarks/search.py demo FOLDER [--methods depth,gp ...] [--seeds 5] [--trials 40] [--final] [--report]

Every method searches with every seed. The suite has the demo's prompts with one seed and half the steps, so that
thousands of merges can be rendered on a few cores; the held-out suites have other seeds. Evaluations are stored in
FOLDER, so an interrupted run continues, and several processes can share the work (`--methods`, `--first-seed`).
`--final` runs the final of each of a method's searches, like `mergetune study finish`. `--report` prints the tables.
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
from searchers import METHODS, Params, Problem, method_names

import studies
from optimizer.errors import UnscorableTrial
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
REPORTED_TRIALS = (10, 15, 20, 30, 40, 60, 100, 200)  # numbers of trials in the report


def suite_of(spec: StudySpec, seeds: tuple[int, ...]) -> SuiteSettings:
    return spec.suite.model_copy(update={"seeds": seeds, "steps": STEPS})


class DemoLandscape:
    """The scores of merges of the demo's checkpoints.

    Args:
        folder: of the stored evaluations: one JSON line each, and the features of the set scorer.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "demo.jsonl"
        spec = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml")
        suites = {name: suite_of(spec, seeds) for name, seeds in SEEDS.items()}
        plan = make_plan(spec.model_copy(update={"suite": suites[SEARCH]}))
        self._runtime = build_runtime(plan, hash_parents(plan), folder / "cache")
        evaluator = self._runtime.evaluator
        self._evaluators = {
            name: Evaluator(evaluator.resident, Renderer(evaluator.renderer.models, suite), evaluator.scoring.scorers)
            for name, suite in suites.items()
        }
        self.problem = Problem(space=plan.space, probes=self._runtime.probes)
        self._stored = {(each["suite"], each["recipe"]): each for each in read_lines(self._file)}

    def recipe(self, params: Params) -> Recipe:
        return self._runtime.blueprint.recipe(self.problem.space.numbers_by_place(params))

    def evaluate(self, params: Params, suite: str = SEARCH) -> dict[str, Any]:
        """Evaluate a merge, or look it up: recipe, params, objective (None if it failed), scores by item and by set."""
        recipe = self.recipe(params)
        key = (suite, recipe.digest)
        if key not in self._stored:
            evaluation = {"suite": suite, "recipe": recipe.digest, "params": dict(params)}
            evaluation |= self._scores(recipe, suite)
            append_line(self._file, evaluation)
            self._stored[key] = evaluation
        return self._stored[key]

    def _scores(self, recipe: Recipe, suite: str) -> dict[str, Any]:
        evaluator = self._evaluators[suite]
        for other in self._evaluators.values():
            other.renderer.text_changed()  # the other suite may have rendered another merge
        try:
            evaluation = evaluator.evaluate(recipe)
        except UnscorableTrial as failure:
            return {"objective": None, "failure": str(failure)}
        for name, features in evaluation.features.items():
            path = self.folder / "features" / suite / f"{recipe.digest}.{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, features.numpy())
        (objective,) = self._runtime.objective.values(evaluation.scores.means).values()
        by_item = {name: list(map(float, values)) for name, values in evaluation.scores.by_item.items()}
        return {"objective": objective, "by_item": by_item, "by_set": dict(evaluation.scores.by_set)}

    def gain(self, params: Params, suite: str) -> float | None:
        """Return the gain over the better parent on one suite; None if the merge failed."""
        value = self.evaluate(params, suite)["objective"]
        parents = [probe.params for probe in self.problem.probes if probe.origin.kind == "parent" and probe.params]
        objectives = [self.evaluate(parent, suite)["objective"] for parent in parents]
        return None if value is None else value - max(each for each in objectives if each is not None)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("a") as file:  # a single write, so that lines of several processes do not mix
        file.write(json.dumps(content) + "\n")


# ------------------------------------------------------------------------------------------ searching


def search(landscape: DemoLandscape, method: str, seed: int, trials: int) -> None:
    """Run one search; append its gains, in order, and the held-out gain of its best observed merge to runs.jsonl."""
    path = landscape.folder / "runs.jsonl"
    if any((run["method"], run["seed"], len(run["gains"])) == (method, seed, trials) for run in read_lines(path)):
        return
    tried: list[Params] = []

    def score(params: Params) -> float | None:
        tried.append(dict(params))
        value: float | None = landscape.evaluate(params)["objective"]
        return value

    seconds = METHODS[method](landscape.problem, seed, trials, score)
    gains = [landscape.gain(params, SEARCH) for params in tried]
    finite = np.array([-np.inf if gain is None else gain for gain in gains])
    held_out = {
        str(count): landscape.gain(tried[int(finite[:count].argmax())], HELD_OUT)
        for count in sorted({40, trials})
        if count <= trials
    }
    run = {
        "method": method,
        "seed": seed,
        "gains": gains,
        "held_out": held_out,
        "ask": seconds / trials,
        "tried": tried,
    }
    append_line(path, run)
    print(
        f"{method}, seed {seed}: best of {trials} {max(g for g in gains if g is not None):+.2f}", held_out, flush=True
    )


def final(landscape: DemoLandscape, run: Mapping[str, Any], top: int = 5) -> dict[str, float]:
    """Run the final of one search, like a study: candidates by posterior mean, the winner by the held-out suite.

    Returns:
        The winner's gains: in the search, in the final, and on a third suite that played no part in any choice.
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
    order = np.argsort(-means, kind="stable")
    by_recipe = {landscape.recipe(complete[index].params).digest: complete[index] for index in order}
    candidates = [(landscape.gain(trial.params, HELD_OUT), trial) for trial in list(by_recipe.values())[:top]]
    held_out, winner = max(((gain, trial) for gain, trial in candidates if gain is not None), key=lambda pair: pair[0])
    fresh = landscape.gain(winner.params, FRESH)
    assert winner.value is not None
    assert fresh is not None
    return {"in_sample": winner.value, "held_out": held_out, "fresh": fresh}


def finals(landscape: DemoLandscape, method: str) -> None:
    """Run the final of each search of a method, append it to finals.jsonl, and print what remains of the gains."""
    path = landscape.folder / "finals.jsonl"
    done = {(each["method"], each["seed"]) for each in read_lines(path)}
    for run in read_lines(landscape.folder / "runs.jsonl"):
        if run["method"] == method and (method, run["seed"]) not in done:
            append_line(path, {"method": method, "seed": run["seed"], **final(landscape, run)})
    results = [each for each in read_lines(path) if each["method"] == method]
    print("\n| seed | gain in the search | in the final | on a third suite | third suite / search |")
    for result in results:
        gains = " | ".join(f"{result[key]:+.2f}" for key in ("in_sample", "held_out", "fresh"))
        print(f"| {result['seed']} | {gains} | {result['fresh'] / result['in_sample']:.0%} |")
    sums = {key: sum(result[key] for result in results) for key in ("in_sample", "held_out", "fresh")}
    print(f"held out / in the search: {sums['held_out'] / sums['in_sample']:.0%} in the final, ", end="")
    print(f"{sums['fresh'] / sums['in_sample']:.0%} on a third suite")


# ------------------------------------------------------------------------------------------ reporting


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The searches of one method."""

    best: Sequence[Sequence[float]]  # [seeds, trials]: best gain so far
    held_out: Mapping[int, Sequence[float]]  # number of trials -> held-out gain of the best merge then [seeds]


def load_runs(folder: Path) -> dict[str, Searched]:
    """Map each method to its stored searches."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for run in read_lines(folder / "runs.jsonl"):
        runs.setdefault(run["method"], {})[run["seed"]] = run
    searched = {}
    for method, by_seed in runs.items():
        gains = [[-np.inf if gain is None else gain for gain in run["gains"]] for run in by_seed.values()]
        counts = {int(count) for run in by_seed.values() for count in run["held_out"]}
        held_out = {count: [run["held_out"][str(count)] for run in by_seed.values()] for count in sorted(counts)}
        searched[method] = Searched(
            best=[np.maximum.accumulate(of_run).tolist() for of_run in gains], held_out=held_out
        )
    return searched


def report(folder: Path, images: int) -> None:
    """Print each method's median gain over seeds with its range; a trial has `images` images."""
    for method, runs in load_runs(folder).items():
        print(f"\n{method}, {len(runs.best)} seeds")
        print("| trials | images | median gain of the best so far (min to max) | held out |")
        for count in [count for count in REPORTED_TRIALS if count <= min(map(len, runs.best))]:
            held_out = runs.held_out.get(count)
            held_out_text = _spread(held_out) if held_out else ""
            best = _spread([of_run[count - 1] for of_run in runs.best])
            print(f"| {count} | {count * images} | {best} | {held_out_text} |")


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default="depth,gp,gp cold,cmaes,tpe univariate,random,bayes_opt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--bayes-opt-trials", type=int, default=200)
    parser.add_argument("--final", action="store_true", help="run the finals of the first method's searches")
    parser.add_argument("--report", action="store_true", help="print the tables of stored searches, without searching")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.report:
        landscape = DemoLandscape(arguments.folder)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for method in method_names(arguments.methods):
                trials = arguments.bayes_opt_trials if method == "bayes_opt" else arguments.trials
                search(landscape, method, seed, trials)
        if arguments.final:
            finals(landscape, method_names(arguments.methods)[0])
    report(arguments.folder, images=len(load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml").suite.prompts))
