"""Benchmark of a search by votes: simulated people of known taste and noise, on the real landscape of the demo.

    python benchmarks/votes.py FOLDER [--seeds 5] [--trials 30] [--votes 60] [--keenness 0.5]

A person's taste is the demo's own objective, and their noise that of a Bradley-Terry model: of two merges whose
objective differs by d, the better is preferred in 1 / (1 + exp(-keenness d)) of all votes. They vote through the
database, on the pairs that the page would show, while the study runs. The same sampler with the same seeds, which gets
the objective of every merge, is what they are compared with. The second kind of person clicks at random. FOLDER is that
of `search.py demo`: each merge is rendered once.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from demo_landscape import SEARCH, DemoLandscape
from optuna.trial import Trial, TrialState
from searchers import METHODS, Params

import studies
from optimizer.observe.events import Reporters
from optimizer.preference.model import fit
from optimizer.preference.points import points_of
from optimizer.preference.values import refresh_preference
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.system.retry import Retry
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials
from optimizer.voting.pairs import choose_pair
from optimizer.voting.preferred_trials import load_preferred_trials
from optimizer.work.heartbeat import registered_worker
from optimizer.work.trial_order import TrialOrder
from optimizer.work.trial_queue import ClaimedTrial, TrialQueue
from studies.records.cached_reads import CachedTrials
from studies.records.database import open_database
from studies.records.optuna_studies import optuna_trials
from studies.records.stored_studies import create_study
from studies.records.stored_trials import finish_trial, load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial, TrialResult
from studies.records.votes import cast_vote, load_votes, show_pair
from studies.spec.study import StudySpec, load_spec


@dataclass(frozen=True, kw_only=True)
class Voter:
    """A person with the demo's taste."""

    landscape: DemoLandscape
    keenness: float  # log-odds for each step of the objective; 0: clicks at random
    random: np.random.Generator

    def prefers(self, one: Params, other: Params) -> bool:
        """Return whether a render of the first merge is preferred."""
        lead = self.keenness * (self._worth(one) - self._worth(other)) if self.keenness else 0.0
        return bool(self.random.random() < 0.5 * (1 + np.tanh(lead / 2)))

    def _worth(self, params: Params) -> float:
        return float(self.landscape.evaluate(params)["objective"])


def spec_of(seed: int, trials: int) -> StudySpec:
    """Return the demo's spec, with people in place of its scorers."""
    spec = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml")
    changes = {
        "scorers": {"preference": None},
        "objective": None,
        "render": {"keep": "all"},
        "final": {"top": 0},
        "budget": {"trials": trials},
        "sampler": {"seed": seed},
    }
    return StudySpec.model_validate(spec.model_dump(mode="json") | changes)


def search_by_votes(folder: Path, landscape: DemoLandscape, voter: Voter, seed: int, trials: int, votes: int) -> str:
    """Run a study in a database of its own, with the votes spread evenly over its trials; returns the best's line."""
    plan = make_plan(spec_of(seed, trials))
    parents, objective = hash_parents(plan), plan.objective
    database = open_database(f"sqlite:///{folder}/study.db")
    records = create_study(database, plan.spec, parents, objective.directions, objective.names)
    order = TrialOrder(
        space=plan.space,
        blueprint=plan.blueprint(parents),
        settings=plan.spec.sampler,
        probes=landscape.problem.probes,
        copied=0,
    )
    queue = TrialQueue(records, order, CachedTrials(records), Reporters(()), _never_abandoned)
    with registered_worker(database, Retry()) as heartbeat:
        done = 0
        while isinstance(claimed := queue.claim(heartbeat), ClaimedTrial):
            _finish(records, claimed)
            done += 1
            while done > 1 and len(load_votes(records)) < round(votes * done / trials):
                _vote(records, voter)
    refresh_preference(records)
    line = _outcome(records, landscape)
    database.close()
    return line


def _never_abandoned(trial: Trial) -> StoredTrial:
    raise AssertionError(f"trial {trial.number} has one worker, which is alive")


def _finish(records: StudyRecords, claimed: ClaimedTrial) -> None:
    """Store a trial as a worker does, without pictures: nobody looks at them."""
    items = len(records.study.spec.suite.items())
    objectives = Objective.of_study(records.study).values({"preference": 0.0})
    result = TrialResult(
        objectives=objectives,
        image_scores={},
        set_scores={"preference": 0.0},
        pixels_sha256=("0" * 64,) * items,
        seconds={},
        machine={},
    )
    finish_trial(records, claimed.number, claimed.worker_id, result)
    records.database.storage.set_trial_state_values(
        claimed.trial._trial_id,  # noqa: SLF001 - as a worker tells it
        TrialState.COMPLETE,
        list(objectives.values()),
    )


def _vote(records: StudyRecords, voter: Voter) -> None:
    """Vote on the pair that the page would show next."""
    trials = [trial for trial in load_trials(records) if trial.is_whole]
    votes, numbers = load_votes(records), [trial.number for trial in trials]
    items = frozenset(range(len(records.study.spec.suite.items())))
    preference = fit(votes, numbers, points_of(records, trials))
    pair = choose_pair(preference, dict.fromkeys(numbers, items), votes, voter.random)
    assert pair is not None
    shown = show_pair(records, "simulated", pair.item, pair.left, pair.right)
    params = {trial.number: trial.params for trial in optuna_trials(records)}
    left = voter.prefers(params[pair.left], params[pair.right])
    cast_vote(records, shown.token, "left" if left else "right")


def _outcome(records: StudyRecords, landscape: DemoLandscape) -> str:
    """Say what the merge that people prefer is worth: its true gain over the better parent, and what votes say."""
    (best,) = best_trials(load_trials(records), Objective.of_study(records.study))
    params = optuna_trials(records)[best.number].params
    row = next((row for row in load_preferred_trials(records).rows if row.number == best.number), None)
    gain = landscape.gain(params, SEARCH)
    if row is None or row.lead is None:
        return f"{gain:.3f} | {best.name} | |"
    lead = f"{row.lead.value:+.2f} ({row.lead.low:+.2f} to {row.lead.high:+.2f})"
    told = "" if row.tally is None else f"{row.tally.preferred} of {row.tally.preferred + row.tally.other}"
    return f"{gain:.3f} | {best.name} | {lead} | {told}"


def search_by_scores(landscape: DemoLandscape, seed: int, trials: int) -> float:
    """Return the true gain of the best merge that the same search finds when it gets every merge's objective."""
    gains: list[float] = []

    def score(params: Params) -> float | None:
        gain = landscape.gain(params, SEARCH)
        gains.append(-np.inf if gain is None else gain)
        value: float | None = landscape.evaluate(params)["objective"]
        return value

    METHODS["depth"](landscape.problem, seed, trials, score)
    return max(gains)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--votes", type=int, default=60)
    parser.add_argument("--keenness", type=float, default=0.5, help="log-odds for each step of the objective")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape = DemoLandscape(arguments.folder)
    print("| seed | voter | gain by scores | gain by votes | share | best | lead over the better parent | preferred |")
    for seed in range(arguments.seeds):
        by_scores = search_by_scores(landscape, seed, arguments.trials)
        for name, keenness in (("by taste", arguments.keenness), ("at random", 0.0)):
            voter = Voter(landscape=landscape, keenness=keenness, random=np.random.default_rng([seed, 11]))
            with tempfile.TemporaryDirectory() as folder:
                line = search_by_votes(Path(folder), landscape, voter, seed, arguments.trials, arguments.votes)
            share = float(line.partition(" | ")[0]) / by_scores
            gain, _, rest = line.partition(" | ")
            print(f"| {seed} | {name} | {by_scores:.3f} | {gain} | {share:.0%} | {rest} |", flush=True)


if __name__ == "__main__":
    main()
