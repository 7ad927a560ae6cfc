"""Who takes part in a final, who is chosen there, and what looks gamed: on constructed scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

from optimizer.errors import FinalError
from optimizer.outcome.final import HeldOutResult, choose_finalists, judge
from optimizer.search.shortlist import by_value
from optimizer.trial.evidence import Evidence
from optimizer.trial.judgement import suspicion
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from scorers.protocol import Direction, ScorerInfo
from studies.records.finals import Final
from studies.records.values import Gain, StoredTrial
from studies.spec.final import FinalSettings

SUM = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("charm", 1.0), Term("noise", -2.0)))
TWO = Objective(names=("charm", "noise"), directions=("maximize", "minimize"), terms=())


def info(name: str, direction: Direction, unit: float = 1.0) -> ScorerInfo:
    return ScorerInfo(
        name=name, label=name, summary=name, direction=direction, unit=unit, range=(0.0, 1.0), scope="image"
    )


INFOS = {"charm": info("charm", "maximize", unit=2.0), "noise": info("noise", "minimize", unit=0.5)}


def study(**values: float) -> list[StoredTrial]:
    """Two parents of value 0 and 1, then a trial for each value."""
    parents = [trial(0, "parent A", objective=0.0), trial(1, "parent B", objective=1.0)]
    return parents + [trial(int(number[1:]), objective=value) for number, value in values.items()]


def numbers(trials: list[StoredTrial], top: int = 5, objective: Objective = SUM) -> list[int]:
    settings = FinalSettings(top=top)
    return [row.number for row in choose_finalists(trials, objective, by_value(objective), settings)[1]]


class TestCandidates:
    def test_are_the_best_observed_in_their_order_and_never_a_parent(self) -> None:
        assert numbers(study(t2=0.5, t3=0.9, t4=-1.0, t5=0.7), top=3) == [3, 5, 2]

    def test_failed_and_running_trials_take_no_part(self) -> None:
        trials = [*study(t2=0.5), trial(3, state="failed"), trial(4, state="running")]
        assert numbers(trials) == [2]

    def test_equal_recipes_take_one_place(self) -> None:
        trials = study(t2=0.5, t3=0.4)
        repeated = [*trials, replace(trials[2], number=9)]
        assert numbers(repeated, top=2) == [2, 3]

    @given(st.permutations(range(2, 8)), st.integers(1, 8))
    def test_follow_the_ranking_they_are_given(self, order: list[int], top: int) -> None:
        trials = study(**{f"t{number}": 0.0 for number in range(2, 8)})

        def rank(rows: object) -> list[StoredTrial]:
            by_number = {row.number: row for row in trials}
            return [by_number[number] for number in order]

        assert [row.number for row in choose_finalists(trials, SUM, rank, FinalSettings(top=top))[1]] == order[:top]

    def test_of_several_objectives_are_the_front_from_its_knee_on(self) -> None:
        trials = [
            trial(0, "parent A", charm=0.0, noise=0.2),
            trial(2, charm=4.0, noise=1.0),  # scaled .44, .79
            trial(3, charm=3.0, noise=0.5),  # scaled .33, .92: the knee
            trial(4, charm=2.9, noise=0.6),  # behind trial 3 in both
            trial(5, charm=9.0, noise=4.0),  # an extreme, as the parent is
        ]
        assert numbers(trials, objective=TWO) == [3, 2, 5]
        assert numbers(trials, top=1, objective=TWO) == [3]

    @pytest.mark.parametrize(
        ("trials", "top", "told"),
        [
            (study(t2=1.0), 0, "turns the final off"),
            (study(), 5, "no candidate"),
            ([trial(2, objective=1.0)], 5, "no parent's trial is finished"),
            ([], 5, "no parent's trial is finished"),
        ],
    )
    def test_nothing_to_compare_is_told(self, trials: list[StoredTrial], top: int, told: str) -> None:
        with pytest.raises(FinalError, match=told):
            numbers(trials, top)


def shown(charm: list[float], noise: list[float] | None = None) -> HeldOutResult:
    by_item = {"charm": np.array(charm), "noise": np.array(noise or [0.0] * len(charm))}
    return HeldOutResult(evidence=Evidence(items=len(charm), scores=Scores(by_item=by_item, by_set={})))


BROKEN = HeldOutResult(failure="degenerate: 4 of 4 images are broken")
PARENTS: Mapping[str, HeldOutResult] = {"A": shown([1, 1, 1, 1]), "B": shown([2, 2, 2, 2])}


def final(
    *candidates: HeldOutResult, objective: Objective = SUM, parents: Mapping[str, HeldOutResult] = PARENTS
) -> Final:
    """Candidates get the numbers 10, 11 ...; each gained 1 in the search."""
    gain = Gain(value=1.0, low=0.5, high=1.5, parent="B")
    rows = [
        (replace(trial(10 + index), gains=dict.fromkeys(objective.names, gain)), one)
        for index, one in enumerate(candidates)
    ]
    before = {letter: (trial(ord(letter) - 65, f"parent {letter}"), one) for letter, one in parents.items()}
    return judge(before, rows, objective, INFOS, suite_digest="d", complete_trials=7)


def suspicions(held: Final, objective: Objective = SUM) -> list[str | None]:
    return [suspicion(row, objective) for row in held.candidates]


class TestTheChoice:
    def test_is_the_best_where_the_search_never_looked_whatever_its_rank(self) -> None:
        held = final(shown([2, 3, 2, 3]), shown([4, 3, 4, 3]), shown([0, 1, 0, 1]))
        assert [row.chosen for row in held.finalists] == [False, False, False, True, False]
        assert held.winner is not None
        assert held.winner.held_out[SINGLE].value == pytest.approx(1.5)
        assert held.winner.held_out[SINGLE].parent == "B"

    def test_of_equals_is_the_better_ranked(self) -> None:
        held = final(shown([3, 3, 3, 3]), shown([3, 3, 3, 3]))
        assert held.winner is not None
        assert held.winner.number == 10

    def test_is_made_and_shown_as_a_loss_where_the_parent_is_better(self) -> None:
        held = final(shown([1, 2, 1, 2]), shown([1, 1, 1, 0]))
        assert held.winner is not None
        assert held.winner.number == 10
        assert held.winner.held_out[SINGLE].value < 0

    def test_passes_over_what_failed(self) -> None:
        held = final(BROKEN, shown([1, 1, 1, 2]))
        assert [(row.failure, row.chosen) for row in held.candidates] == [(BROKEN.failure, False), (None, True)]
        assert final(BROKEN).winner is None

    def test_is_left_to_the_user_with_several_objectives(self) -> None:
        assert final(shown([3, 3, 3, 3]), objective=TWO).winner is None

    def test_compares_with_the_parents_that_could_be_rendered(self) -> None:
        held = final(shown([3, 3, 3, 3]), parents={"A": PARENTS["A"], "B": BROKEN})
        assert held.candidates[0].held_out[SINGLE].parent == "A"
        assert held.candidates[0].held_out[SINGLE].value == pytest.approx(2.0)
        with pytest.raises(FinalError, match="A: degenerate"):
            final(shown([3, 3, 3, 3]), parents={"A": BROKEN})

    def test_a_scorer_is_compared_with_the_parent_that_is_better_in_the_objective(self) -> None:
        parents = {"A": shown([1, 1, 1, 1], [0, 0, 0, 0]), "B": shown([9, 9, 9, 9], [1, 1, 1, 1])}
        held = final(shown([9, 9, 9, 9], [0.5, 0.5, 0.5, 0.5]), parents=parents)
        assert held.candidates[0].held_out["noise"].value == pytest.approx(0.5)
        assert suspicions(held) == [None]


class TestSuspicion:
    def test_a_gain_of_the_objective_at_the_cost_of_a_scorer_is_named(self) -> None:
        (told,) = suspicions(final(shown([9.0, 9.1, 9.2, 8.9], [1.0, 1.1, 0.9, 1.0])))
        assert told is not None
        assert "noise" in told
        assert "charm" not in told
        assert "parent B" in told

    def test_a_scorer_that_may_only_seem_to_lose_is_not(self) -> None:
        assert suspicions(final(shown([9.0, 9.1, 9.2, 8.9], [1.0, -0.9, 0.8, -0.7]))) == [None]

    def test_a_gain_that_is_surely_a_loss_held_out_is_named(self) -> None:
        (told,) = suspicions(final(shown([0.0, 0.1, 0.2, 0.1])))
        assert told is not None
        assert "in the search is a loss to parent B in the objective" in told

    def test_a_gain_that_may_be_a_loss_held_out_is_not(self) -> None:
        assert suspicions(final(shown([0.0, 5.0, 0.0, 2.0]))) == [None]

    def test_in_several_objectives_each_gain_is_followed(self) -> None:
        (told,) = suspicions(final(shown([0.0, 0.1, 0.2, 0.1], [0.0, 0.1, -0.1, 0.0]), objective=TWO), TWO)
        assert told is not None
        assert "charm" in told
        assert "noise" not in told

    def test_each_loss_is_told_of_its_own_parent(self) -> None:
        parents = {"A": shown([1.0, 1.1, 0.9, 1.0], [1.0] * 4), "B": shown([9.0, 9.1, 8.9, 9.0], [9.0] * 4)}
        worse = shown([0.0, 0.1, 0.0, 0.1], [99.0, 99.1, 98.9, 99.0])
        (told,) = suspicions(final(worse, objective=TWO, parents=parents), TWO)
        assert told is not None
        assert "a loss to parent B in charm, to parent A in noise" in told

    def test_one_image_tells_nothing(self) -> None:
        held = final(shown([0.0]), parents={"A": shown([1.0])})
        assert suspicions(held) == [None]

    def test_what_failed_is_no_suspect(self) -> None:
        assert suspicions(final(BROKEN)) == [None]
