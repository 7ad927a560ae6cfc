"""Intervals over prompts: the images of each are averaged first, and what has a single prompt falls back to images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from optimizer.trial.by_prompt import basis_of, prompt_numbers
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference_interval, gains, standard_error
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.standard_errors import mean_interval
from optimizer.trial.weighted import spread
from scorers.protocol import ScorerInfo

Array = NDArray[np.float64]
X, Y, FID = (Term("x", 1.0),), (Term("y", 1.0),), (Term("fid", 1.0),)


def numbers(*counts: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def images(prompts: NDArray[np.int64], weights: Array | None = None, **values: Array) -> Evidence:
    return Evidence(items=len(prompts), scores=Scores(by_item=values, by_set={}, weights=weights, prompts=prompts))


def mean_of_set(prompts: NDArray[np.int64], hidden: Array, by_item: dict[str, Array] | None = None) -> Evidence:
    """A set score that is the mean of hidden values."""
    scores = Scores(by_item=by_item or {}, by_set={"fid": float(hidden.mean())}, prompts=prompts)
    return Evidence(items=len(hidden), scores=scores, resampled={"fid": lambda rows: float(hidden[rows].mean())})


def test_a_text_that_is_written_twice_is_one_prompt() -> None:
    assert prompt_numbers(["a", "a", "b", "a", "c"]).tolist() == [0, 0, 1, 0, 2]


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 10**6))
def test_the_interval_is_students_over_the_means_of_prompts(prompts: int, seeds: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, prompts * seeds))
    order = np.random.default_rng(seed).permutation(prompts * seeds)  # a suite may have them in any order
    of = numbers(*[seeds] * prompts)
    means = (one - other).reshape(prompts, seeds).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    found = difference_interval(images(of[order], x=one[order]), images(of[order], x=other[order]), X)
    assert found == pytest.approx((expected.low, expected.high))


def test_seeds_that_agree_add_nothing_to_what_prompts_say() -> None:
    means = np.random.default_rng(1).normal(size=6)
    once, often = images(numbers(*[1] * 6), x=means), images(numbers(*[8] * 6), x=np.repeat(means, 8))
    assert standard_error(often, X) == pytest.approx(standard_error(once, X))
    assert standard_error(often, X) == pytest.approx(stats.sem(means))


def test_prompts_count_by_the_weights_of_their_images() -> None:
    counts, generator = (1, 2, 4, 2, 3), np.random.default_rng(2)
    x, weights, of = generator.normal(size=12), generator.uniform(0.5, 3.0, size=12), numbers(*counts)
    totals = np.bincount(of, weights).astype(np.float64)
    means = np.bincount(of, weights * x) / totals
    found, expected = standard_error(images(of, weights, x=x), X), spread(means, totals)
    assert expected is not None
    assert found == pytest.approx(expected.error)
    assert mean_interval([x], weights, of)[0] == pytest.approx(np.average(means, weights=totals))


def test_a_prompt_whose_images_are_all_left_out_is_as_if_it_were_not_there() -> None:
    of, x = numbers(2, 2, 2, 2), np.random.default_rng(3).normal(size=8)
    holes = x.copy()
    holes[[2, 3, 4]] = np.nan
    expected = spread(np.array([x[:2].mean(), x[5], x[6:].mean()]), np.array([2.0, 1.0, 2.0]))
    assert expected is not None
    assert standard_error(images(of, x=holes), X) == pytest.approx(expected.error)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=3, max_size=9))
def test_a_set_score_that_is_a_mean_has_the_error_of_an_image_score(seed: int, counts: list[int]) -> None:
    of, hidden = numbers(*counts), np.random.default_rng(seed).normal(size=sum(counts))
    as_set, as_images = mean_of_set(of, hidden), images(of, fid=hidden)
    if sum(counts) - max(counts) < 2:
        assert standard_error(as_set, FID) is None
    else:
        assert standard_error(as_set, FID) == pytest.approx(standard_error(as_images, FID))


def test_image_and_set_scores_vary_together_by_prompt() -> None:
    of, hidden = numbers(3, 3, 2, 4), np.random.default_rng(5).normal(size=12)
    one = mean_of_set(of, -hidden, {"x": hidden + 0.5})
    other = mean_of_set(of, np.zeros(12), {"x": np.zeros(12)})
    assert difference_interval(one, other, (*X, *FID)) == pytest.approx((0.5, 0.5))


def test_a_set_score_that_grows_with_fewer_images_owes_no_error_to_that() -> None:
    of = numbers(*[4] * 5)
    biased = Evidence(
        items=20,
        scores=Scores(by_item={}, by_set={"fid": 10 / 20}, prompts=of),
        resampled={"fid": lambda rows: 10 / len(rows)},
    )
    assert standard_error(biased, FID) == pytest.approx(0.0)


def test_what_has_one_prompt_only_has_an_interval_over_its_images() -> None:
    of, (x, y) = numbers(5), np.random.default_rng(6).normal(size=(2, 5))
    assert standard_error(images(of, x=x), X) == pytest.approx(stats.sem(x))
    assert basis_of(images(of, x=x), X) == "images"
    two, holes = numbers(3, 2), np.where(np.arange(5) < 3, y, np.nan)
    both = images(two, x=x, y=holes)
    assert basis_of(both, X) == "prompts"
    assert basis_of(both, Y) == "images"  # it looks at the first prompt alone
    assert standard_error(both, Y) == pytest.approx(stats.sem(y[:3]))
    assert basis_of(both, (*X, *Y)) == "images"


def test_a_gain_says_what_its_interval_is_over() -> None:
    info = ScorerInfo(name="x", label="x", summary="x", direction="maximize", unit=1.0, range=(0.0, 1.0), scope="image")
    objective = Objective(names=(SINGLE,), directions=("maximize",), terms=X)
    for of, basis in ((numbers(4), "images"), (numbers(2, 2), "prompts")):
        found = gains(images(of, x=np.arange(4.0)), {"A": images(of, x=np.zeros(4))}, objective, {"x": info})
        assert {gain.basis for gain in found.values()} == {basis}


@pytest.mark.parametrize(("prompts", "seeds"), [(2, 4), (4, 4), (8, 8)])
def test_few_prompts_are_covered_as_often_as_is_said(prompts: int, seeds: int) -> None:
    """Half of the variance is the prompts'. Over images, it would be 63 % for 8 prompts with 8 seeds."""
    generator, of = np.random.default_rng(7), numbers(*[seeds] * prompts)
    found = []
    for _ in range(2000):
        values = np.repeat(generator.normal(size=prompts), seeds) + generator.normal(size=of.size)
        _, low, high = mean_interval([values], None, of)
        assert low is not None
        assert high is not None
        found.append(low <= 0 <= high)
    assert 0.935 <= np.mean(found) <= 0.965
