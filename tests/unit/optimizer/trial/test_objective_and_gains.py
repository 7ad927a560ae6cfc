"""Scores to objectives, gains over the better parent with their intervals, and which trials are best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from trials import trial

from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference_interval, gains, standard_error, standard_errors
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.ranking import best_trials, parent_trials
from optimizer.trial.standard_errors import mean_interval
from scorers.protocol import Direction, Scope, ScorerInfo
from studies.spec.study import StudySpec

Array = NDArray[np.float64]


def info(name: str, direction: Direction = "maximize", unit: float = 1.0, scope: Scope = "image") -> ScorerInfo:
    return ScorerInfo(
        name=name, label=name, summary=name, direction=direction, unit=unit, range=(0.0, 1.0), scope=scope
    )


def spec(**changes: Any) -> StudySpec:
    settings = {
        "study": "s",
        "parents": ["/a.safetensors", "/b.safetensors"],
        "suite": {"prompts": ["cat"]},
        "scorers": {"sharpness": None, "clipping": None},
    }
    return StudySpec.model_validate(settings | changes, context={"base_dir": Path("/")})


INFOS = {"sharpness": info("sharpness", unit=2.0), "clipping": info("clipping", "minimize", unit=0.02)}


class TestObjective:
    def test_one_number_adds_scores_by_weight_and_unit_and_subtracts_what_should_be_low(self) -> None:
        weighted = spec(objective={"sharpness": {"weight": 3.0}, "clipping": {"unit": 0.5}})
        objective = Objective.of(weighted, INFOS)
        assert objective.names == (SINGLE,)
        assert objective.directions == ("maximize",)
        assert objective.values({"sharpness": 10.0, "clipping": 0.2}) == {SINGLE: 3.0 * 10.0 / 2.0 - 0.2 / 0.5}
        assert objective.formula() == "1.5 sharpness -2 clipping"

    def test_without_weights_every_scorer_counts_by_its_unit(self) -> None:
        values = Objective.of(spec(), INFOS).values({"sharpness": 4.0, "clipping": 0.04})
        assert values[SINGLE] == pytest.approx(4.0 / 2.0 - 0.04 / 0.02)

    def test_a_scorer_outside_the_objective_does_not_count(self) -> None:
        objective = Objective.of(spec(objective={"clipping": None}), INFOS)
        assert objective.values({"sharpness": 1e9, "clipping": 0.02}) == {SINGLE: -1.0}
        assert objective.formula() == "-50 clipping"

    def test_several_objectives_keep_their_values_order_and_directions(self) -> None:
        objective = Objective.of(spec(objectives=["clipping", "sharpness"]), INFOS)
        assert objective.names == ("clipping", "sharpness")
        assert objective.directions == ("minimize", "maximize")
        assert list(objective.values({"sharpness": 5.0, "clipping": 0.1}).items()) == [
            ("clipping", 0.1),
            ("sharpness", 5.0),
        ]
        assert objective.formula() == "minimize clipping, maximize sharpness"

    def test_means_are_over_the_items_and_set_scores_as_they_are(self) -> None:
        scores = Scores(by_item={"sharpness": np.array([1.0, 2.0, 6.0])}, by_set={"fid": 12.5})
        assert scores.means == {"sharpness": 3.0, "fid": 12.5}


# -------------------------------------------------------------------------------------------- gains


def images_only(**values: Any) -> Evidence:
    by_item = {name: np.asarray(row, dtype=np.float64) for name, row in values.items()}
    return Evidence(items=len(next(iter(by_item.values()))), scores=Scores(by_item=by_item, by_set={}))


def with_set(rows: Array, offset: float = 0.0, by_item: Mapping[str, Array] | None = None) -> Evidence:
    """A set score that is the mean of hidden values, so that its bootstrap has a known answer."""
    scores = Scores(by_item=by_item or {}, by_set={"fid": float(rows.mean()) + offset})
    return Evidence(items=len(rows), scores=scores, resampled={"fid": lambda draw: float(rows[draw].mean()) + offset})


class TestStandardErrors:
    def test_of_image_scores_are_those_of_their_means_and_of_sums_those_of_the_sum(self) -> None:
        x, y = np.random.default_rng(5).normal(size=(2, 20))
        objective = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("x", 2.0), Term("y", -0.5)))
        infos = {"x": INFOS["sharpness"], "y": INFOS["clipping"]}
        found = standard_errors(images_only(x=x, y=y), objective, infos)
        expected = {"x": stats.sem(x), "y": stats.sem(y), SINGLE: stats.sem(2 * x - 0.5 * y)}
        assert found == pytest.approx(expected)

    def test_of_a_set_score_that_is_a_mean_is_that_of_the_mean(self) -> None:
        rows = np.random.default_rng(6).normal(size=60)
        assert standard_error(with_set(rows), (Term("fid", -3.0),)) == pytest.approx(3 * stats.sem(rows))

    def test_a_single_item_and_lost_features_have_none(self) -> None:
        assert standard_error(images_only(x=[1.0]), (Term("x", 1.0),)) is None
        lost = Evidence(items=5, scores=Scores(by_item={}, by_set={"fid": 1.0}))
        assert standard_error(lost, (Term("fid", 1.0),)) is None


class TestInterval:
    @given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.01, 100))
    def test_image_scores_have_students_interval_of_paired_differences(self, n: int, seed: int, scale: float) -> None:
        generator = np.random.default_rng(seed)
        one, other = generator.normal(1, scale, n), generator.normal(0, 1, n)
        expected = stats.ttest_rel(one, other).confidence_interval(0.95)
        _, low, high = mean_interval([one - other])
        assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-9)
        assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-9)

    def test_a_single_item_has_no_interval(self) -> None:
        assert mean_interval([np.array([3.0])]) == (3.0, None, None)

    def test_equal_differences_leave_no_doubt(self) -> None:
        assert mean_interval([np.full(5, 0.25)]) == (0.25, 0.25, 0.25)

    def test_terms_are_summed_item_by_item_with_their_factors(self) -> None:
        generator = np.random.default_rng(1)
        a, b, c, d = generator.normal(size=(4, 12))
        one, other = images_only(x=a, y=b), images_only(x=c, y=d)
        expected = stats.ttest_rel(2 * a - 3 * b, 2 * c - 3 * d).confidence_interval(0.95)
        found = difference_interval(one, other, (Term("x", 2.0), Term("y", -3.0)))
        assert found == pytest.approx((expected.low, expected.high))

    def test_set_scores_have_about_the_interval_of_a_percentile_bootstrap(self) -> None:
        generator = np.random.default_rng(2)
        rows, others = generator.normal(1.0, 1, 40), generator.normal(0, 1, 40)
        expected = stats.bootstrap(
            (rows - others,), np.mean, n_resamples=5_000, method="percentile", rng=np.random.default_rng(3)
        ).confidence_interval
        low, high = difference_interval(with_set(rows), with_set(others), (Term("fid", 1.0),))
        assert low is not None
        assert high is not None
        width = expected.high - expected.low
        assert abs(low - expected.low) < 0.2 * width
        assert abs(high - expected.high) < 0.2 * width

    def test_items_and_sets_vary_together(self) -> None:
        """The set score is minus the image score, item by item: their sum never varies."""
        rows = np.random.default_rng(4).normal(size=16)
        one = with_set(-rows, by_item={"x": rows + 0.5})
        other = with_set(np.zeros(16), by_item={"x": np.zeros(16)})
        assert difference_interval(one, other, (Term("x", 1.0), Term("fid", 1.0))) == pytest.approx((0.5, 0.5))

    def test_a_lower_distance_is_a_gain(self) -> None:
        rows = np.random.default_rng(5).normal(size=20)
        low, high = difference_interval(with_set(rows, offset=-2.0), with_set(rows), (Term("fid", -1.0),))
        assert (low, high) == pytest.approx((2.0, 2.0))

    def test_the_same_evidence_gives_the_same_interval(self) -> None:
        rows, others = np.random.default_rng(6).normal(size=(2, 9))
        terms = (Term("fid", 1.0),)
        first = difference_interval(with_set(rows), with_set(others), terms)
        assert difference_interval(with_set(rows), with_set(others), terms) == first
        low, high = first
        assert low is not None
        assert high is not None
        assert low < high

    def test_set_scores_without_a_prompt_are_computed_once_per_trial(self) -> None:
        calls: list[int] = []

        def score(draw: NDArray[np.int64]) -> float:
            calls.append(len(draw))
            return float(draw.mean())

        parent = Evidence(items=8, scores=Scores(by_item={}, by_set={"fid": 1.0}), resampled={"fid": score})
        trial = with_set(np.arange(8.0))
        difference_interval(trial, parent, (Term("fid", 1.0),))
        first = len(calls)
        difference_interval(trial, parent, (Term("fid", 2.0),))
        assert len(calls) == first > 0
        assert set(calls) == {7}

    def test_features_that_were_not_kept_leave_no_interval(self) -> None:
        without = Evidence(items=4, scores=Scores(by_item={}, by_set={"fid": 1.0}))
        assert difference_interval(with_set(np.ones(4)), without, (Term("fid", 1.0),)) == (None, None)


class TestGains:
    infos: Mapping[str, ScorerInfo] = {"up": info("up"), "down": info("down", "minimize")}
    objective = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("up", 1.0), Term("down", -10.0)))
    parents: Mapping[str, Evidence] = {
        "A": images_only(up=[1.0, 2.0, 3.0], down=[0.5, 0.5, 0.8]),
        "B": images_only(up=[2.0, 3.0, 7.0], down=[0.9, 0.9, 0.9]),
    }

    def test_each_score_is_compared_with_the_parent_that_is_better_in_it(self) -> None:
        trial = images_only(up=[4.0, 4.0, 7.0], down=[0.2, 0.1, 0.3])
        found = gains(trial, self.parents, self.objective, self.infos)
        assert {name: gain.parent for name, gain in found.items()} == {SINGLE: "A", "up": "B", "down": "A"}
        assert found["up"].value == pytest.approx(5.0 - 4.0)
        assert found["down"].value == pytest.approx(0.6 - 0.2)  # positive is better
        assert found[SINGLE].value == pytest.approx((5.0 - 2.0) - (2.0 - 6.0))

    def test_the_interval_is_around_the_gain(self) -> None:
        trial = images_only(up=[4.0, 4.0, 7.0], down=[0.2, 0.1, 0.3])
        for gain in gains(trial, self.parents, self.objective, self.infos).values():
            assert gain.low is not None
            assert gain.high is not None
            assert (gain.low + gain.high) / 2 == pytest.approx(gain.value)

    def test_a_parent_gains_nothing_over_itself_where_it_is_better(self) -> None:
        found = gains(self.parents["A"], self.parents, self.objective, self.infos)
        assert (found["down"].value, found["down"].low, found["down"].high) == (0.0, 0.0, 0.0)
        assert found["up"].value < 0

    def test_equal_parents_are_compared_with_the_first(self) -> None:
        same = {"B": self.parents["A"], "A": self.parents["A"]}
        assert {gain.parent for gain in gains(self.parents["B"], same, self.objective, self.infos).values()} == {"A"}

    def test_several_objectives_have_a_gain_each_and_no_sum(self) -> None:
        objective = Objective(names=("down", "up"), directions=("minimize", "maximize"), terms=())
        assert gains(self.parents["B"], self.parents, objective, self.infos).keys() == {"up", "down"}

    def test_one_item_has_a_gain_without_an_interval(self) -> None:
        parents = {"A": images_only(up=[1.0], down=[1.0])}
        found = gains(images_only(up=[2.5], down=[1.0]), parents, self.objective, self.infos)
        assert (found["up"].value, found["up"].low, found["up"].high) == (1.5, None, None)


# ----------------------------------------------------------------------------------------- standing


ONE = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("x", 1.0),))
TWO = Objective(names=("up", "down"), directions=("maximize", "minimize"), terms=())


class TestStanding:
    def test_parents_are_known_by_their_origin(self) -> None:
        rows = [trial(0, "parent A"), trial(1, "parent B"), trial(2, "uniform 0.5"), trial(3)]
        assert {letter: row.number for letter, row in parent_trials(rows).items()} == {"A": 0, "B": 1}

    def test_the_best_of_one_objective_is_the_highest_complete_trial_the_earlier_of_equals(self) -> None:
        rows = [
            trial(0, objective=1.0),
            trial(3, objective=2.0),
            trial(1, objective=2.0),
            trial(2, state="failed"),
            trial(4, state="running"),
        ]
        assert [row.number for row in best_trials(rows, ONE)] == [1]

    @pytest.mark.parametrize("objective", [ONE, TWO])
    def test_without_complete_trials_there_is_no_best(self, objective: Objective) -> None:
        assert best_trials([trial(0, state="failed"), trial(1, state="running")], objective) == []

    def test_one_objective_to_minimise(self) -> None:
        low = Objective(names=("down",), directions=("minimize",), terms=())
        assert [row.number for row in best_trials([trial(0, down=2.0), trial(1, down=1.0)], low)] == [1]

    def test_the_front_holds_one_of_equal_trials(self) -> None:
        rows = [trial(1, up=1.0, down=1.0), trial(0, up=1.0, down=1.0), trial(2, up=1.0, down=2.0)]
        assert [row.number for row in best_trials(rows, TWO)] == [0]

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25))
    def test_the_front_is_what_nothing_beats(self, points: list[tuple[int, int]]) -> None:
        rows = [trial(index, up=float(up), down=float(down)) for index, (up, down) in enumerate(points)]
        front = best_trials(rows, TWO)
        # Independent reference: for each value of `up`, the lowest `down`; kept while it beats all larger `up`.
        expected, lowest = set[tuple[int, int]](), math.inf
        for up in sorted({up for up, _ in points}, reverse=True):
            down = min(value for other, value in points if other == up)
            if down < lowest:
                expected.add((up, down))
                lowest = down
        assert {(row.objectives["up"], row.objectives["down"]) for row in front} == expected
        assert [row.number for row in front] == sorted(points.index(point) for point in expected)
