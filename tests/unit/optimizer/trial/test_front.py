"""The Pareto front: hypervolume against figures by hand and by counting, the knee, and the choice by weights."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trials import trial

from optimizer.errors import WeightsError
from optimizer.trial.best import best_of
from optimizer.trial.front import front_of, hypervolume, knee, parse_weights
from optimizer.trial.objective import SINGLE, Objective, Term

TWO = Objective(names=("up", "down"), directions=("maximize", "minimize"), terms=())
ONE = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("x", 1.0),))


def array(*rows: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(rows, dtype=np.float64)


class TestHypervolume:
    def test_two_objectives_by_hand(self) -> None:
        # 3x1, and above it 2x1, and above that 1x1
        assert hypervolume(array((3, 1), (2, 2), (1, 3)), np.zeros(2)) == pytest.approx(6)

    def test_what_is_not_above_the_reference_adds_nothing(self) -> None:
        assert hypervolume(array((3, 1), (5, 0), (-1, 9)), np.zeros(2)) == pytest.approx(3)
        assert hypervolume(array((0, 0)), np.zeros(2)) == 0

    @settings(max_examples=60, deadline=None)
    @given(st.integers(2, 4).flatmap(lambda n: st.lists(st.tuples(*[st.integers(-1, 4)] * n), min_size=1, max_size=7)))
    def test_it_counts_the_unit_cells_that_are_covered(self, points: list[tuple[int, ...]]) -> None:
        cells = itertools.product(range(4), repeat=len(points[0]))
        covered = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
        values = np.array(points, dtype=np.float64)
        assert hypervolume(values, np.zeros(len(points[0]))) == pytest.approx(covered)


class TestKnee:
    def test_it_is_the_bulge_whatever_the_units(self) -> None:
        values = array((0, 10), (4, 9), (7, 5), (9, 1), (10, 0))
        by_hand = [(x / 10 + y / 10 - 1) / np.sqrt(2) for x, y in values]  # from the line x + y = 1
        assert knee(values) == int(np.argmax(by_hand)) == 1
        assert knee(values * np.array([1000.0, 0.001]) + np.array([5.0, -7.0])) == 1

    def test_three_objectives_use_the_plane_through_the_extremes(self) -> None:
        assert knee(array((1, 0, 0), (0, 1, 0), (0.3, 0.3, 0.3), (0.6, 0.6, 0.1), (0, 0, 1))) == 3

    def test_a_front_that_bends_inwards_and_a_single_member_have_one_too(self) -> None:
        assert knee(array((1, 0), (0.2, 0.2), (0, 1))) == 0
        assert knee(array((3, 3))) == 0

    def test_members_that_are_equal_in_an_objective_are_compared_in_the_others(self) -> None:
        assert knee(array((1, 0, 5), (0.8, 0.8, 5), (0, 1, 5))) == 1


class TestChoice:
    ROWS = (
        trial(0, "parent A", up=0.0, down=5.0),
        trial(1, "parent B", up=1.0, down=10.0),
        trial(2, up=3.0, down=9.0),
        trial(3, up=2.5, down=4.0),
        trial(4, up=1.0, down=3.0),
        trial(5, up=0.5, down=8.0),
    )

    def test_the_front_its_reference_and_its_volume(self) -> None:
        front = front_of(self.ROWS, TWO)
        assert front is not None
        assert [row.number for row in front.members] == [2, 3, 4]
        assert front.reference == {"up": 0.0, "down": 10.0}  # the worse parent in each
        # columns by hand, as heights above down = 10: 0..1 by trial 4, 1..2.5 by trial 3, 2.5..3 by trial 2
        assert front.volume == pytest.approx(1 * 7 + 1.5 * 6 + 0.5 * 1)
        assert front.share == pytest.approx(16.5 / (3 * 7))
        assert front.knee.number == 3

    def test_best_is_the_knee_unless_weights_are_given(self) -> None:
        def chosen(weights: dict[str, float] | None) -> int:
            best = best_of(self.ROWS, None, TWO, weights)
            assert best is not None
            return best.trial.number

        assert chosen(None) == 3
        assert chosen({"up": 1.0}) == 2
        assert chosen({"down": 2.0}) == 4
        assert chosen({"up": 1.0, "down": 1.0}) == 3

    def test_without_a_parent_there_is_no_volume_and_without_a_trial_no_front(self) -> None:
        front = front_of(self.ROWS[2:], TWO)
        assert front is not None
        assert (front.reference, front.volume, front.share) == (None, None, None)
        assert front_of([], TWO) is None
        assert best_of([], None, TWO) is None

    def test_a_single_objective_has_its_best_trial(self) -> None:
        best = best_of([trial(0, objective=1.0), trial(1, objective=2.0)], None, ONE)
        assert best is not None
        assert best.trial.number == 1

    @pytest.mark.parametrize(
        ("weights", "said"),
        [
            ({"left": 1.0}, "expected objectives of this study"),
            ({"up": -1.0}, "0 or more"),
            ({"up": 0.0}, "all are 0"),
            ({"up": np.inf}, "inf"),
        ],
    )
    def test_weights_that_say_nothing_are_refused(self, weights: dict[str, float], said: str) -> None:
        with pytest.raises(WeightsError, match=said):
            best_of(self.ROWS, None, TWO, weights)

    def test_weights_for_a_single_objective_are_refused(self) -> None:
        with pytest.raises(WeightsError, match="single"):
            best_of([trial(0, objective=1.0)], None, ONE, {SINGLE: 1.0})


def test_weights_are_parsed_and_nonsense_is_refused() -> None:
    assert parse_weights("clip_score=1, fid = 0.5") == {"clip_score": 1.0, "fid": 0.5}
    for text in ("", "a", "a=", "=1", "a=x", "a=nan", "a=1,", "a=1,a=2"):
        with pytest.raises(WeightsError):
            parse_weights(text)
