"""What votes say: utilities of trials, how sure they are, and which pair is asked about next."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest

from optimizer.preference.model import Preference, _fit, comparisons, fit, tally
from optimizer.voting.pairs import choose_pair, information
from studies.records.votes import Verdict, Vote

ITEMS = frozenset(range(4))


def vote(left: int, right: int, verdict: Verdict | None, item: int = 0, person: str = "ann") -> Vote:
    return Vote(
        token="0" * 32,
        person=person,
        item=item,
        held_out=False,
        left=left,
        right=right,
        verdict=verdict,
        shown_at=0.0,
        voted_at=1.0,
    )


def simulated(
    utilities: list[float], count: int, seed: int, points: dict[int, np.ndarray] | None = None
) -> tuple[Preference, list[Vote]]:
    """Let a voter of known taste answer the pairs that are chosen."""
    random, votes = np.random.default_rng(seed), list[Vote]()
    numbers = tuple(range(len(utilities)))
    items = dict.fromkeys(numbers, ITEMS)
    for _ in range(count):
        pair = choose_pair(fit(votes, numbers, points), items, votes, random)
        assert pair is not None
        chance = 1 / (1 + np.exp(utilities[pair.right] - utilities[pair.left]))
        votes.append(vote(pair.left, pair.right, "left" if random.random() < chance else "right", pair.item))
    return fit(votes, numbers, points), votes


@pytest.mark.parametrize(("wins", "losses", "spread"), [(7, 3, 1.0), (1, 0, 0.3), (0, 5, 2.8)])
def test_the_mode_of_two_trials_is_that_of_the_formula(wins: int, losses: int, spread: float) -> None:
    votes = [vote(3, 8, "left")] * wins + [vote(8, 3, "left")] * losses
    mean, covariance, _ = _fit(comparisons(votes, {3: 0, 8: 1}), np.eye(2) * spread**2)

    def slope(half: float) -> float:  # of the log-posterior along u = (half, -half)
        chance = 1 / (1 + np.exp(-2 * half))
        return float(2 * (wins - (wins + losses) * chance) - 2 * half / spread**2)

    half = brentq(slope, -20, 20, xtol=1e-12)
    np.testing.assert_allclose(mean, [half, -half], atol=1e-8)
    chance = 1 / (1 + np.exp(-2 * half))
    curvature = (wins + losses) * chance * (1 - chance)
    expected = np.linalg.inv(np.eye(2) / spread**2 + curvature * np.array([[1, -1], [-1, 1]]))
    np.testing.assert_allclose(covariance, expected, atol=1e-8)


def test_the_evidence_agrees_with_the_integral() -> None:
    votes = [vote(0, 1, "left")] * 4 + [vote(0, 1, "right")] * 2 + [vote(0, 1, "equal")]
    prior = np.array([[0.8, 0.3], [0.3, 0.6]])
    _, _, evidence = _fit(comparisons(votes, {0: 0, 1: 1}), prior)
    # Only the difference of the two utilities matters to the votes: a normal of one dimension.
    variance = prior[0, 0] + prior[1, 1] - 2 * prior[0, 1]
    difference = np.linspace(-12, 12, 40001)
    chance = 1 / (1 + np.exp(-difference))
    likelihood = chance**4.5 * (1 - chance) ** 2.5
    density = np.exp(-0.5 * difference**2 / variance) / np.sqrt(2 * np.pi * variance)
    exact = np.log(np.trapezoid(likelihood * density, difference))
    assert evidence == pytest.approx(exact, abs=0.02)  # Laplace's approximation


def test_equal_and_both_bad_lean_to_neither() -> None:
    votes = [vote(0, 1, "equal"), vote(1, 0, "both_bad"), vote(0, 1, "equal")]
    preference = fit(votes, (0, 1))
    np.testing.assert_allclose(preference.mean, 0, atol=1e-9)


def test_votes_on_other_trials_and_pairs_without_an_answer_are_left_out() -> None:
    votes = [vote(0, 1, "left"), vote(0, 9, "right"), vote(1, 0, None)]
    np.testing.assert_allclose(fit(votes, (0, 1)).mean, fit(votes[:1], (0, 1)).mean)


def test_a_trial_without_votes_is_liked_as_its_neighbours_are() -> None:
    votes = [vote(0, 1, "left")] * 12
    points = {0: np.array([0.9, 0.9]), 1: np.array([0.1, 0.1]), 2: np.array([0.85, 0.9])}
    preference = fit(votes, (0, 1, 2, 3), points)
    assert preference.ranked[:2] == (0, 2)
    assert preference.mean[2] > 0.5 * preference.mean[0]
    assert abs(preference.mean[3]) < 1e-6  # it has no ratios, and nothing is known of it


@pytest.mark.parametrize("seed", range(5))
def test_a_voter_who_clicks_at_random_moves_nothing(seed: int) -> None:
    preference, _ = simulated([0.0] * 12, 60, seed)
    lead = preference.lead(preference.ranked[0], preference.ranked[-1])
    assert lead.low < 0 < lead.high


@pytest.mark.parametrize("seed", range(3))
def test_sixty_votes_find_a_trial_that_the_voter_likes(seed: int) -> None:
    """The taste is smooth in the ratio, with its best in the middle, as merges of two parents have it."""
    ratios = np.linspace(0, 1, 25)
    utilities = list(4 - 30 * (ratios - 0.55) ** 2)
    points = {number: np.array([ratio]) for number, ratio in enumerate(ratios)}
    preference, _ = simulated(utilities, 60, seed, points)
    worst, best = min(utilities), max(utilities)
    assert (utilities[preference.ranked[0]] - worst) / (best - worst) > 0.9
    lead = preference.lead(preference.ranked[0], 0)
    assert lead.low > 0  # it surely beats the parent at ratio 0


@pytest.mark.parametrize(("preferred", "other"), [(7, 3), (1, 0), (0, 4), (50, 50)])
def test_the_share_of_votes_has_wilsons_interval(preferred: int, other: int) -> None:
    votes = [vote(2, 5, "left")] * preferred + [vote(2, 5, "right")] * other + [vote(5, 2, "equal")]
    counted = tally(votes, 2, 5)
    assert (counted.preferred, counted.other, counted.undecided) == (preferred, other, 1)
    expected = binomtest(preferred, preferred + other).proportion_ci(method="wilson")
    assert counted.interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_share_of_no_votes_has_no_interval() -> None:
    assert tally([vote(0, 1, "equal")], 0, 1).interval is None


def test_a_vote_on_what_is_known_tells_little() -> None:
    known = fit([vote(0, 1, "left"), vote(1, 0, "left")] * 200, (0, 1, 2))
    told = information(known, 0)
    assert told[0] == pytest.approx(0, abs=1e-12)
    assert told[2] > 3 * told[1]


def test_only_trials_with_a_common_item_are_a_pair() -> None:
    random = np.random.default_rng(0)
    preference = fit([], (0, 1, 2))
    items = {0: frozenset({0}), 1: frozenset({1}), 2: frozenset({1, 3})}
    for _ in range(10):
        pair = choose_pair(preference, items, [], random)
        assert pair is not None
        assert ({pair.left, pair.right}, pair.item) == ({1, 2}, 1)
    assert choose_pair(fit([], (0, 1)), {0: frozenset({0}), 1: frozenset({1})}, [], random) is None


def test_the_item_is_one_that_the_pair_was_not_shown_with() -> None:
    shown = [vote(0, 1, "equal", item) for item in (0, 1, 3)]
    pair = choose_pair(fit(shown, (0, 1)), {0: ITEMS, 1: ITEMS}, shown, np.random.default_rng(1))
    assert pair is not None
    assert pair.item == 2


def test_either_trial_stands_on_the_left() -> None:
    random = np.random.default_rng(2)
    pairs = [choose_pair(fit([], (0, 1)), {0: ITEMS, 1: ITEMS}, [], random) for _ in range(40)]
    assert 10 < sum(pair is not None and pair.left == 0 for pair in pairs) < 30
