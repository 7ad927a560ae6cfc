"""Gains and verdicts where a scorer compares with a parent, to which no merge is closer than that parent itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from trials import trial

from optimizer.outcome.final import HeldOutResult, judge
from optimizer.trial.best import best_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains
from optimizer.trial.judgement import suspicion
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from scorers.protocol import ScorerInfo
from studies.records.finals import Final
from studies.records.values import StoredTrial
from studies.spec.study import parse_spec

INFOS = {
    name: ScorerInfo(name=name, label=name, summary=name, direction="maximize", unit=1, range=(0, 9), scope="image")
    for name in ("charm", "like")
}
SUM = Objective(
    names=(SINGLE,),
    directions=("maximize",),
    terms=(Term("charm", 1.0), Term("like", 1.0)),
    compared={"like": ("A",)},
)
TWO = Objective(names=("like", "charm"), directions=("maximize", "maximize"), terms=(), compared={"like": ("A",)})


def evidence(charm: float, like: float) -> Evidence:
    noise = np.array([0.0, 0.01, -0.01, 0.0])
    by_item = {"charm": charm + noise, "like": like + noise[::-1] / 2}
    return Evidence(items=4, scores=Scores(by_item=by_item, by_set={}))


A, B, MERGE = evidence(1.0, 1.0), evidence(3.0, 0.2), evidence(4.0, 0.7)


def row(number: int, one: Evidence, origin: str = "gp") -> StoredTrial:
    found = gains(one, {"A": A, "B": B}, TWO, INFOS)
    return replace(trial(number, origin), objectives=one.scores.means, gains=found)


def test_a_spec_says_which_parent_a_scorer_compares_with() -> None:
    text = """
        study: s
        parents: [a.safetensors, b.safetensors]
        suite: {prompts: [a cat]}
        scorers: {near: {kind: fidelity, to: B, by: ssim}, old: {kind: fidelity, to: old.safetensors, by: ssim}}
    """
    spec = parse_spec(text, base_dir=Path("/"))
    assert Objective.of(spec, spec.infos).compared == {"near": ("B",)}


def test_closeness_to_a_parent_is_gained_over_the_others() -> None:
    found = gains(MERGE, {"A": A, "B": B}, TWO, INFOS)
    assert found["like"].parent == "B"
    assert found["like"].value > 0.4
    assert gains(MERGE, {"A": A}, TWO, INFOS)["like"].parent == "A"  # where there is no other


def test_merges_of_a_front_are_not_passed_over_because_the_parent_is_closest_to_itself() -> None:
    rows = [row(0, A, "parent A"), row(1, B, "parent B"), row(2, MERGE), row(3, evidence(3.9, 0.8))]
    best = best_of(rows, None, TWO)
    assert best is not None
    assert best.merge_is_best
    assert best.passed_over == ()
    assert best.caveat is None


def test_a_merge_that_gains_at_the_cost_of_closeness_to_the_better_parent_is_not_gamed() -> None:
    parents = {
        "A": (row(0, evidence(9.0, 1.0), "parent A"), HeldOutResult(evidence=evidence(9.0, 1.0))),
        "B": (row(1, B, "parent B"), HeldOutResult(evidence=B)),
    }
    better = evidence(11.0, 0.7)

    def held(objective: Objective) -> Final:
        candidates = [(row(2, better), HeldOutResult(evidence=better))]
        return judge(parents, candidates, objective, INFOS, suite_digest="d", complete_trials=3)

    assert held(SUM).candidates[0].held_out["like"].parent == "A"
    assert suspicion(held(SUM).candidates[0], SUM) is None
    unaware = replace(SUM, compared={})
    assert suspicion(held(unaware).candidates[0], unaware) is not None


def test_a_front_whose_closeness_was_gained_over_b_in_the_search_and_is_over_a_in_the_final_is_not_gamed() -> None:
    """Parent B cannot be scored in the final, so nothing but A is left there."""
    parents = {
        "A": (row(0, A, "parent A"), HeldOutResult(evidence=A)),
        "B": (row(1, B, "parent B"), HeldOutResult(failure="flat images")),
    }
    candidates = [(row(2, MERGE), HeldOutResult(evidence=MERGE))]
    held = judge(parents, candidates, TWO, INFOS, suite_digest="d", complete_trials=3)
    candidate = held.candidates[0]
    assert candidate.in_sample["like"].value > 0
    assert candidate.held_out["like"].high is not None
    assert candidate.held_out["like"].high < 0
    assert suspicion(candidate, TWO) is None
    assert suspicion(candidate, replace(TWO, compared={})) is not None
