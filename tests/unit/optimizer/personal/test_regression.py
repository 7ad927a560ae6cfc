"""Learning a linear taste from votes: the solution, the folds, and what is said of a voter by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from optimizer.personal.regression import Differences, Floats, fit, folds, held_out_agreement, trained

WIDTH = 24


def votes(taste: Floats, count: int, *, items: int = 20, undecided: int = 0, seed: int = 0) -> Differences:
    """Votes of somebody with a linear taste: clear where it is strong, by chance where it is zero."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, WIDTH))
    y = (random.random(count) < 1 / (1 + np.exp(-x @ taste))).astype(np.float64)
    y[:undecided] = 0.5
    return Differences(x=x, y=y, groups=random.integers(0, items, count))


def direction(strength: float) -> Floats:
    taste = np.zeros(WIDTH)
    taste[3] = strength
    return taste


@pytest.mark.parametrize("penalty", [10.0, 0.3, 0.001])
def test_the_weights_are_those_of_a_general_minimiser(penalty: float) -> None:
    given = votes(direction(2.0), 60, undecided=10)
    square = np.square(given.x).sum(axis=1).mean()

    def loss(weights: Floats) -> float:
        scores = given.x @ weights
        lost = np.logaddexp(0, -scores) * given.y + np.logaddexp(0, scores) * (1 - given.y)
        return float(lost.sum() + penalty * square / 2 * (weights @ weights))

    found = minimize(loss, np.zeros(WIDTH), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(fit(given, penalty), found.x, atol=1e-4)


def test_a_known_taste_is_found_and_its_agreement_is_that_of_new_votes() -> None:
    taste = direction(4.0)
    given = votes(taste, 300)
    weights, agreement = trained(given), held_out_agreement(given)
    assert weights @ taste / np.linalg.norm(weights) / np.linalg.norm(taste) > 0.9
    new = votes(taste, 20_000, seed=1)
    share = float(((new.x @ weights > 0) == (new.y == 1)).mean())
    low, high = agreement.interval
    assert low < share < high
    assert agreement.votes == 300


def test_few_votes_of_long_embeddings_are_as_good_as_in_few_dimensions() -> None:
    """More dimensions than votes: those in which no votes differ change nothing."""
    given = votes(direction(4.0), 60)
    longer = Differences(x=np.hstack([given.x, np.zeros((60, 500))]), y=given.y, groups=given.groups)
    np.testing.assert_allclose(trained(longer)[:WIDTH], trained(given), atol=1e-6)
    assert held_out_agreement(longer) == held_out_agreement(given)


@pytest.mark.parametrize("seed", range(4))
def test_a_voter_by_chance_is_not_agreed_with(seed: int) -> None:
    agreement = held_out_agreement(votes(direction(0.0), 200, seed=seed))
    assert agreement.share < 0.6


def test_undecided_votes_are_learned_from_and_do_not_count() -> None:
    given = votes(direction(4.0), 100, undecided=40)
    assert held_out_agreement(given).votes == 60
    decided = given.rows(given.decided)
    assert np.linalg.norm(fit(given, 0.1) - fit(decided, 0.1)) > 0.01


def test_renders_that_are_the_same_agree_with_nobody() -> None:
    given = Differences(x=np.zeros((30, WIDTH)), y=np.ones(30), groups=np.arange(30) % 5)
    assert held_out_agreement(given).agreed == 0


def test_each_group_is_held_out_once_and_as_a_whole() -> None:
    groups = np.random.default_rng(0).integers(0, 13, 200)
    held = list(folds(groups, 5))
    assert np.array_equal(np.sum(held, axis=0), np.ones(200))
    for part in held:
        assert not set(groups[part]) & set(groups[~part])
        assert 25 <= part.sum() <= 55
    assert len(list(folds(np.array([0, 0, 1]), 5))) == 2
