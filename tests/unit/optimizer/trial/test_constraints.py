"""Which trials count where means of scorers are bounded: ranks, fronts, races, finals and the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from trials import trial

from optimizer.errors import FinalError
from optimizer.outcome.final import HeldOutResult, choose_finalists, judge
from optimizer.search.shortlist import by_value
from optimizer.trial.best import best_of, objections
from optimizer.trial.constraints import Bound, Constraints
from optimizer.trial.evidence import Evidence
from optimizer.trial.judgement import flaws
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.racing import Race
from optimizer.trial.ranking import best_gains, best_trials, would_be_best
from scorers.protocol import ScorerInfo
from studies.records.finals import Final
from studies.records.values import Gain, StoredTrial
from studies.spec.final import FinalSettings
from studies.spec.study import parse_spec

Array = NDArray[np.float64]
LIKE = Constraints((Bound("like", 1.0, 0.8, 0.01), Bound("sharp", -1.0, 40.0, 1.0)))
ONE = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("charm", 1.0),), constraints=LIKE)
TWO = Objective(names=("charm", "like"), directions=("maximize", "maximize"), terms=(), constraints=LIKE)
INFOS = {
    name: ScorerInfo(
        name=name, label=name, summary=name, direction="maximize", unit=1.0, range=(0.0, 99.0), scope="image"
    )
    for name in ("charm", "like", "sharp")
}


def row(number: int, value: float, like: float, sharp: float = 20.0, origin: str = "gp") -> StoredTrial:
    return replace(trial(number, origin, objective=value), constrained={"like": like, "sharp": sharp})


def member(number: int, charm: float, like: float) -> StoredTrial:
    return replace(trial(number, charm=charm, like=like), constrained={"like": like, "sharp": 0.0})


PARENTS = [row(0, 1.0, 1.0, origin="parent A"), row(1, 9.0, 0.1, origin="parent B")]


class TestABound:
    def test_is_broken_by_so_many_units_of_its_scorer(self) -> None:
        assert LIKE.excesses({"like": 0.75, "sharp": 41.5}) == pytest.approx({"like min": 5.0, "sharp max": 1.5})
        assert LIKE.violation({"like": 0.75, "sharp": 41.5}) == pytest.approx(6.5)

    def test_itself_is_allowed(self) -> None:
        assert LIKE.keeps({"like": 0.8, "sharp": 40.0})
        assert LIKE.breach({"like": 0.8, "sharp": 40.0}) is None

    def test_that_is_broken_is_told_with_what_broke_it(self) -> None:
        assert LIKE.breach({"like": 0.71, "sharp": 55.0}) == "like 0.71 (at least 0.8), sharp 55 (at most 40)"
        assert LIKE.in_words() == "like at least 0.8, sharp at most 40"

    def test_of_a_spec_has_the_scorers_own_unit_whether_it_is_an_objective_or_not(self) -> None:
        text = """
            study: s
            parents: [a.safetensors, b.safetensors]
            suite: {prompts: [a cat]}
            scorers: {sharpness: , contrast: }
            objective: {sharpness: {unit: 7}}
            constraints: {contrast: {min: 0.1, max: 0.4}, sharpness: {max: 40}}
        """
        spec = parse_spec(text, base_dir=Path("/"))
        bounds = Objective.of(spec, spec.infos).constraints.bounds
        assert bounds == (
            Bound("contrast", 1.0, 0.1, 0.02),
            Bound("contrast", -1.0, 0.4, 0.02),
            Bound("sharpness", -1.0, 40.0, 1.0),
        )


class TestRanks:
    def test_the_best_keeps_the_constraints_whatever_others_gain(self) -> None:
        rows = [*PARENTS, row(2, 5.0, 0.79), row(3, 3.0, 0.81), row(4, 2.0, 0.99), row(5, 8.0, 0.9, sharp=41.0)]
        assert [each.number for each in best_trials(rows, ONE)] == [3]

    def test_where_none_keeps_them_the_nearest_comes_first(self) -> None:
        rows = [row(2, 5.0, 0.6), row(3, 1.0, 0.7), row(4, 9.0, 0.5)]
        assert [each.number for each in best_trials(rows, ONE)] == [3]

    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
    def test_a_front_is_that_of_the_feasible_trials_alone(self, points: list[tuple[int, int]]) -> None:
        rows = [member(number, charm, like / 20) for number, (charm, like) in enumerate(points)]
        feasible = [each for each in rows if each.constrained["like"] >= 0.8]
        free = replace(TWO, constraints=Constraints())
        front = best_trials(rows, TWO)
        if feasible:
            assert front == best_trials(feasible, free)
        else:
            assert {each.constrained["like"] for each in front} == {max(like for _, like in points) / 20}

    def test_a_new_trial_is_among_the_best_only_if_it_keeps_what_others_keep(self) -> None:
        rows = [row(3, 3.0, 0.81)]
        assert would_be_best({SINGLE: 4.0}, rows, ONE, {"like": 0.8, "sharp": 0.0})
        assert not would_be_best({SINGLE: 4.0}, rows, ONE, {"like": 0.79, "sharp": 0.0})
        assert would_be_best({SINGLE: 0.0}, [row(2, 5.0, 0.6)], ONE, {"like": 0.7, "sharp": 0.0})

    def test_gains_of_trials_that_break_them_are_not_the_best_so_far(self) -> None:
        gain = Gain(value=7.0, low=6.0, high=8.0, parent="A")
        rows = [replace(row(2, 8.0, 0.5), gains={SINGLE: gain}), replace(row(3, 2.0, 0.9), gains={SINGLE: gain})]
        assert best_gains(rows[:1], ONE) == {}
        assert best_gains(rows, ONE) == {SINGLE: gain}


class TestTheBest:
    def test_is_a_feasible_parent_where_no_merge_keeps_them_and_says_so(self) -> None:
        best = best_of([*PARENTS, row(2, 5.0, 0.6), row(3, 7.0, 0.7)], None, ONE)
        assert best is not None
        assert best.trial.number == 0
        assert best.caveat == "no merge keeps the constraints; trial 3 comes nearest: like 0.7 (at least 0.8)"

    def test_that_keeps_none_is_not_exported_unless_it_is_asked_for(self) -> None:
        best = best_of([row(2, 5.0, 0.6), row(3, 7.0, 0.7)], None, ONE)
        assert best is not None
        assert best.refusal == "no trial keeps the constraints; trial 3 comes nearest: like 0.7 (at least 0.8)"

    def test_of_a_front_is_a_member_that_keeps_them(self) -> None:
        best = best_of([member(2, 9.0, 0.1), member(3, 1.0, 0.9), member(4, 0.5, 0.95)], None, TWO)
        assert best is not None
        assert best.trial.number in {3, 4}
        assert best.caveat is None

    def test_of_a_front_that_is_a_parent_alone_names_the_nearest_merge(self) -> None:
        a = replace(member(0, 1.0, 1.0), origin=PARENTS[0].origin)
        best = best_of([a, member(2, 5.0, 0.6), member(3, 4.0, 0.7)], None, TWO)
        assert best is not None
        assert best.trial.number == 0
        assert best.merge is not None
        assert best.merge.number == 3
        assert best.caveat == "no merge keeps the constraints; trial 3 comes nearest: like 0.7 (at least 0.8)"

    def test_a_merge_that_breaks_them_meets_an_objection(self) -> None:
        broken = row(2, 5.0, 0.6)
        assert objections(broken, [*PARENTS, broken, row(3, 2.0, 0.9)], None, ONE) == (
            "trial 2 breaks the constraints: like 0.6 (at least 0.8)",
        )


def shown(charm: list[float], like: list[float]) -> HeldOutResult:
    by_item = {"charm": np.array(charm), "like": np.array(like), "sharp": np.zeros(len(charm))}
    return HeldOutResult(evidence=Evidence(items=len(charm), scores=Scores(by_item=by_item, by_set={})))


A, B = shown([1, 1.5, 1, 1], [1, 1, 1, 1]), shown([9, 9, 9.5, 9], [0.1, 0.1, 0.1, 0.2])


def final(*candidates: HeldOutResult, a: HeldOutResult = A) -> Final:
    rows = [(row(10 + index, 2.0, 0.9), one) for index, one in enumerate(candidates)]
    parents = {"A": (PARENTS[0], a), "B": (PARENTS[1], B)}
    return judge(parents, rows, ONE, INFOS, suite_digest="d", complete_trials=2 + len(candidates))


def trials_of(held: Final) -> list[StoredTrial]:
    return [*PARENTS, *(row(each.number, 2.0, 0.9) for each in held.candidates)]


class TestTheFinal:
    def test_takes_candidates_that_keep_them_only(self) -> None:
        rows = [*PARENTS, row(2, 5.0, 0.6), row(3, 3.0, 0.9), row(4, 2.0, 0.95)]
        _, candidates = choose_finalists(rows, ONE, by_value(ONE), FinalSettings())
        assert [each.number for each in candidates] == [3, 4]

    def test_is_not_held_where_no_merge_keeps_them(self) -> None:
        with pytest.raises(FinalError, match="no merge keeps the constraints"):
            choose_finalists([*PARENTS, row(2, 5.0, 0.6)], ONE, by_value(ONE), FinalSettings())
        a = replace(member(0, 1.0, 1.0), origin=PARENTS[0].origin)
        with pytest.raises(FinalError, match="no merge keeps the constraints"):
            choose_finalists([a, member(2, 5.0, 0.6)], TWO, by_value(TWO), FinalSettings())

    def test_of_several_objectives_needs_a_merge_that_no_parent_dominates(self) -> None:
        a = replace(member(0, 9.0, 1.0), origin=PARENTS[0].origin)
        with pytest.raises(FinalError, match="behind a parent in all objectives"):
            choose_finalists([a, member(2, 5.0, 0.9)], TWO, by_value(TWO), FinalSettings())

    def test_chooses_among_those_that_keep_them_there_and_compares_with_such_a_parent(self) -> None:
        held = final(shown([6, 6, 6, 6.5], [0.7, 0.72, 0.7, 0.7]), shown([2, 2, 2, 2.5], [0.9, 0.92, 0.85, 0.9]))
        assert held.winner is not None
        assert held.winner.number == 11
        assert held.winner.held_out[SINGLE].parent == "A"
        assert held.winner.held_out[SINGLE].value == pytest.approx(1.0)
        best = best_of(trials_of(held), held, ONE)
        assert best is not None
        assert best.trial.number == 11
        (told,) = flaws(held, ONE)
        assert told.startswith("trial 10 breaks the constraints in the final: like 0.705 (0.6891 to 0.7209; at least")

    def test_in_which_no_merge_keeps_them_chooses_the_parent_that_does(self) -> None:
        held = final(shown([6, 6, 6, 6.5], [0.7, 0.72, 0.7, 0.7]))
        assert held.winner is None
        best = best_of(trials_of(held), held, ONE)
        assert best is not None
        assert best.trial.number == 0
        assert best.caveat == "in the final no merge keeps the constraints (like at least 0.8, sharp at most 40)"

    def test_chooses_a_merge_that_keeps_them_over_parents_that_do_not_though_they_score_higher(self) -> None:
        held = final(shown([2, 2, 2, 2.5], [0.9, 0.92, 0.85, 0.9]), a=shown([3, 3, 3, 3.5], [0.5, 0.5, 0.5, 0.6]))
        best = best_of(trials_of(held), held, ONE)
        assert best is not None
        assert best.trial.number == 10
        assert best.caveat is not None
        assert "parent B is ahead of it, but breaks the constraints in the final: like 0.125" in best.caveat


def test_a_parent_on_a_front_that_breaks_a_bound_in_the_final_is_passed_over() -> None:
    a = replace(member(0, 5.0, 0.95), origin=PARENTS[0].origin)
    merge = member(2, 4.9, 0.96)
    held = judge(
        {"A": (a, shown([5, 5, 5, 5.1], [0.7, 0.7, 0.7, 0.71]))},
        [(merge, shown([5.2, 5.2, 5.2, 5.3], [0.9, 0.9, 0.9, 0.91]))],
        TWO,
        INFOS,
        suite_digest="d",
        complete_trials=2,
    )
    in_the_search = best_of([a, merge], None, TWO)
    best = best_of([a, merge], held, TWO)
    assert in_the_search is not None
    assert best is not None
    assert (in_the_search.trial.number, best.trial.number) == (0, 2)


def evidence(charm: Array, like: Array) -> Evidence:
    by_item = {"charm": charm, "like": like, "sharp": np.zeros(len(charm))}
    return Evidence(items=len(charm), scores=Scores(by_item=by_item, by_set={}))


class TestARace:
    ITEMS, SEEN = 32, range(8)

    def race(self, like: float) -> Race:
        noise = np.random.default_rng(0).normal(0, 0.05, self.ITEMS)
        own = evidence(np.full(self.ITEMS, 1.0) + noise, np.full(self.ITEMS, like) + noise - noise.mean())
        return Race(
            incumbent=3,
            objective=own.scores.means["charm"],
            evidence=own,
            terms=ONE.terms,
            confidence=0.99,
            looks=3,
            constraints=LIKE,
        )

    def trial(self, race: Race, charm: float, like: float) -> Evidence:
        noise = np.random.default_rng(1).normal(0, 0.01, (2, self.ITEMS))
        known = race.evidence.scores.by_item
        return evidence(known["charm"] + charm + noise[0], known["like"] + like + noise[1])

    @pytest.mark.parametrize(
        ("charm", "like", "goes_on"),
        [
            (1.0, -0.3, False),  # better, and surely breaks the bound
            (1.0, 0.0, True),
            (1.0, -0.1, True),  # 0.8 is the bound, and nothing is sure
            (-1.0, 0.0, False),  # surely behind
        ],
    )
    def test_is_lost_by_a_trial_that_surely_breaks_a_bound(self, charm: float, like: float, *, goes_on: bool) -> None:
        race = self.race(0.9)
        assert race.goes_on(self.SEEN, self.trial(race, charm, like).part(self.SEEN)) == goes_on

    @pytest.mark.parametrize(
        ("charm", "like", "goes_on"),
        [
            (-1.0, 0.25, True),  # may keep the bound of 0.8
            (-1.0, 0.1, True),  # surely breaks it, and is nearer to it
            (5.0, 0.0, True),  # nothing is sure
            (5.0, -0.1, False),  # surely farther from it
        ],
    )
    def test_against_one_that_breaks_them_is_lost_by_who_is_surely_farther_from_them(
        self, charm: float, like: float, *, goes_on: bool
    ) -> None:
        race = self.race(0.6)
        assert race.goes_on(self.SEEN, self.trial(race, charm, like).part(self.SEEN)) == goes_on

    def test_estimates_the_mean_of_the_whole_suite_from_paired_differences(self) -> None:
        race = self.race(0.9)
        one = self.trial(race, 0.0, -0.2)
        told = race.estimate_constrained(self.SEEN, one.part(self.SEEN))
        plain = float(one.scores.by_item["like"][:8].mean())
        whole = one.scores.means["like"]
        assert told.keys() == {"like", "sharp"}
        assert abs(told["like"] - whole) < 0.005 < abs(plain - whole)

    def test_as_good_a_trial_passes_all_looks_with_at_least_the_requested_confidence(self) -> None:
        generator, stopped = np.random.default_rng(3), 0
        for _ in range(400):
            noise = generator.normal(0, 0.1, (3, self.ITEMS))
            own = evidence(noise[0], np.full(self.ITEMS, 0.8) + noise[1] - noise[1].mean())
            race = replace(self.race(0.9), objective=own.scores.means["charm"], evidence=own, confidence=0.9)
            shift = generator.normal(0, 0.1, (2, self.ITEMS))
            other = evidence(
                noise[0] + shift[0] - shift[0].mean(), own.scores.by_item["like"] + shift[1] - shift[1].mean()
            )
            seen = [range(8), range(16), range(24)]
            stopped += not all(race.goes_on(items, other.part(items)) for items in seen)
        assert stopped / 400 < 0.1
