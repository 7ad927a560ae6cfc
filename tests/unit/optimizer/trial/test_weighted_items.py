"""Items that count differently or that scorers leave out: means, errors, intervals, races and set scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval, gains, standard_error, unseen
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.racing import Race
from optimizer.trial.scoring import Scoring, joined
from optimizer.trial.weighted import spread, weighted_mean
from scorers.protocol import ScorerInfo, SuiteImages
from studies.spec.samplers import Sampling
from studies.spec.suite import SuiteItem

Array = NDArray[np.float64]
X, Y = (Term("x", 1.0),), (Term("y", 1.0),)
UNEQUAL = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 6.0, 0.5, 0.5])


def evidence(weights: Array | None, **values: Array) -> Evidence:
    rows = {name: np.asarray(row, dtype=np.float64) for name, row in values.items()}
    return Evidence(items=len(next(iter(rows.values()))), scores=Scores(by_item=rows, by_set={}, weights=weights))


def scaled(weight: float, count: int) -> Array:
    return np.full(count, weight)


@given(st.integers(2, 30), st.integers(0, 10**6), st.floats(0.01, 100))
def test_equal_weights_give_the_very_bits_of_no_weights(count: int, seed: int, weight: float) -> None:
    x, y, other = np.random.default_rng(seed).normal(size=(3, count))
    terms = (Term("x", 2.0), Term("y", -0.3))
    plain = [evidence(None, x=x, y=y), evidence(None, x=other, y=x)]
    weighted = [evidence(scaled(weight, count), x=x, y=y), evidence(scaled(weight, count), x=other, y=x)]
    assert plain[0].scores.means == weighted[0].scores.means == {"x": float(x.mean()), "y": float(y.mean())}
    assert difference_interval(plain[0], plain[1], terms) == difference_interval(weighted[0], weighted[1], terms)
    by_item = 2.0 * x + -0.3 * y
    assert standard_error(weighted[0], terms) == float(by_item.std(ddof=1) / np.sqrt(count))


@given(st.integers(2, 20), st.integers(0, 10**6))
def test_the_general_formulas_are_the_plain_ones_for_equal_weights(count: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=count)
    found = spread(x, scaled(3.0, count))
    assert found is not None
    assert found.error == pytest.approx(stats.sem(x))
    assert found.freedom == pytest.approx(count - 1)


def test_an_item_that_is_left_out_is_as_if_it_were_not_there() -> None:
    x, weights = np.random.default_rng(1).normal(size=12), UNEQUAL
    holes = x.copy()
    holes[[2, 7]] = np.nan
    kept = ~np.isnan(holes)
    whole, short = evidence(weights, x=holes), evidence(weights[kept], x=x[kept])
    assert whole.scores.means["x"] == pytest.approx(np.average(x[kept], weights=weights[kept]))
    assert whole.scores.means == pytest.approx(short.scores.means)
    assert standard_error(whole, X) == pytest.approx(standard_error(short, X))


def test_the_error_and_its_freedom_are_those_of_the_matrices_of_the_papers() -> None:
    x = np.random.default_rng(2).normal(size=12)
    share = UNEQUAL / UNEQUAL.sum()
    to_residuals = np.eye(12) - np.outer(np.ones(12), share)
    covariance = to_residuals @ to_residuals.T
    middle = np.diag(share**2 / np.diag(covariance))
    form = to_residuals.T @ middle @ to_residuals
    found = spread(x, UNEQUAL)
    assert found is not None
    assert found.error == pytest.approx(np.sqrt(x @ form @ x))
    assert found.freedom == pytest.approx(np.trace(form) ** 2 / np.trace(form @ form))


def _uniform(generator: np.random.Generator) -> Array:
    return generator.normal(size=12)


def _skewed(generator: np.random.Generator) -> Array:
    return generator.exponential(size=12) - 1.0


def _heavy_vary_more(generator: np.random.Generator) -> Array:
    values: Array = generator.normal(size=12) * np.sqrt(UNEQUAL)
    return values


@pytest.mark.parametrize(
    ("draw", "least"),
    [(_uniform, 0.94), (_heavy_vary_more, 0.91), (_skewed, 0.88)],
    ids=["normal", "heavy items vary more", "skewed"],
)
def test_intervals_of_weighted_means_cover_the_truth(
    draw: Callable[[np.random.Generator], Array], least: float
) -> None:
    """Twelve items, of which three have half of the weight; the plain t interval of skewed data covers no more."""
    generator, nothing = np.random.default_rng(3), np.zeros(12)
    covered = []
    for _ in range(3000):
        interval = difference_interval(evidence(UNEQUAL, x=draw(generator)), evidence(UNEQUAL, x=nothing), X)
        low, high = (float(end) for end in interval if end is not None)
        covered.append(low <= 0 <= high)
    assert least <= np.mean(covered) <= 0.985


def test_scorers_of_an_objective_may_look_at_different_items() -> None:
    generator = np.random.default_rng(4)
    holes = np.where(np.arange(16) < 8, np.nan, 0.0)
    covered = []
    for _ in range(2000):
        one = evidence(None, x=generator.normal(size=16), y=generator.normal(size=16) + holes)
        low, high = difference_interval(one, evidence(None, x=np.zeros(16), y=holes), (*X, *Y))
        assert low is not None
        assert high is not None
        covered.append(low <= 0 <= high)
    assert 0.94 <= np.mean(covered) <= 0.98


def test_a_scorer_that_looks_at_one_item_has_no_error_and_one_of_none_has_no_gain() -> None:
    one, none = np.array([1.0, np.nan, np.nan]), np.full(3, np.nan)
    trial = evidence(None, x=one, y=none)
    assert standard_error(trial, X) is None
    infos = {name: _info(name) for name in "xy"}
    objective = Objective(names=(SINGLE,), directions=("maximize",), terms=X)
    assert set(gains(trial, {"A": trial}, objective, infos)) == {SINGLE, "x"}
    assert weighted_mean(none, None) is None


def _info(name: str, scope: str = "image") -> ScorerInfo:
    return ScorerInfo(
        name=name,
        label=name,
        summary=name,
        direction="maximize",
        unit=1.0,
        range=(0, 1),
        scope=scope,  # type: ignore[arg-type]
    )


# ------------------------------------------------------------------------------------------ races


def _race(weights: Array | None, x: Array) -> Race:
    return Race(incumbent=0, objective=1.0, evidence=evidence(weights, x=x), terms=X, confidence=0.95, looks=3)


def test_the_weight_that_is_still_unseen_decides_how_sure_a_race_is() -> None:
    heavy_seen, light_seen = [7, 8, 9], [0, 1, 2]
    whole = evidence(UNEQUAL, x=np.zeros(12))
    assert unseen(light_seen, whole, X) > unseen(heavy_seen, whole, X) > 0
    assert unseen([0, 1, 2], evidence(scaled(2.0, 12), x=np.zeros(12)), X) == 1 - 3 / 12
    generator, sums = np.random.default_rng(5), []
    share = UNEQUAL / UNEQUAL.sum()
    for _ in range(4000):  # the error of the prediction, in units of the error of what was seen
        x = generator.normal(size=12)
        sums.append(share @ x - np.average(x[heavy_seen], weights=UNEQUAL[heavy_seen]))
    seen = UNEQUAL[heavy_seen] / UNEQUAL[heavy_seen].sum()
    assert np.var(sums) / np.sum(seen**2) == pytest.approx(unseen(heavy_seen, whole, X), rel=0.08)


def test_a_race_goes_on_until_every_scorer_has_seen_an_item() -> None:
    holes = np.array([np.nan, np.nan, np.nan, 0.0, 0.0, 0.0])
    race = Race(
        incumbent=0,
        objective=1.0,
        evidence=evidence(None, x=np.zeros(6), y=holes),
        terms=(*X, *Y),
        confidence=0.9,
        looks=2,
    )
    worse = np.array([-50.0, -51.0, -52.0])
    assert race.goes_on([0, 1, 2], evidence(None, x=worse, y=holes[:3]))
    assert not _race(None, np.zeros(6)).goes_on([0, 1, 2], evidence(None, x=worse))


# ------------------------------------------------------------------------------------------ scoring


class Brightness:
    """A scorer of the mean pixel, which must not see the images that it is left out of."""

    info = _info("x")

    def score(self, images: SuiteImages) -> torch.Tensor:
        return torch.tensor([float(image.double().mean()) for image in images.images], dtype=torch.float64)


class MeanOfSet:
    """A set scorer whose score is the mean of the pixels."""

    info = _info("fid", "set")

    def features(self, images: SuiteImages) -> torch.Tensor:
        return torch.stack([image.double().mean()[None] for image in images.images])

    def score(self, features: torch.Tensor) -> float:
        return float(features.mean())


def _items() -> list[SuiteItem]:
    without = {1: ("x",), 2: ("fid",), 4: ("x", "fid")}
    return [
        SuiteItem(
            index=index, prompt=str(index), negative="", seed=index, width=64, height=64,
            sampling=Sampling(sampler="euler", schedule="normal", steps=1, cfg=1.0), clip_skip=1,
            weight=1.0 + index, without=without.get(index, ()),
        )
        for index in range(6)
    ]  # fmt: skip


def _image(index: int) -> torch.Tensor:
    return torch.full((3, 8, 8), 10 * index, dtype=torch.uint8)


def test_items_are_not_scored_by_scorers_that_they_are_left_out_of_whatever_the_stages() -> None:
    scoring, items = Scoring({"x": Brightness(), "fid": MeanOfSet()}), _items()
    whole = scoring.score(items, tuple(_image(item.index) for item in items))
    stages = ([4], [0, 3, 5], [1, 2])
    parts = [scoring.score([items[i] for i in stage], tuple(_image(i) for i in stage)) for stage in stages]
    for found in (whole, joined(parts)):
        scores = scoring.scores(found)
        np.testing.assert_array_equal(scores.by_item["x"], [0.0, np.nan, 20.0, 30.0, np.nan, 50.0])
        assert scores.by_set == {"fid": (0 + 10 + 30 + 50) / 4}
        assert scores.means["x"] == pytest.approx(np.average([0, 20, 30, 50], weights=[1, 3, 4, 6]))
        known = scoring.evidence(scores, found.features)
        assert known.part([2, 3, 4, 5]).scores.by_set == {"fid": 40.0}
        assert known.part([1, 2]).scores.means == {"x": 20.0, "fid": 10.0}


def test_the_bootstrap_of_a_set_score_draws_its_own_items_alone() -> None:
    generator = np.random.default_rng(6)
    rows, members = generator.normal(size=60), np.arange(0, 60, 2)
    rows[1::2] = np.nan
    scores = Scores(by_item={}, by_set={"fid": float(rows[members].mean())}, members={"fid": members})
    trial = Evidence(items=60, scores=scores, resampled={"fid": lambda draw: float(rows[draw].mean())})
    assert standard_error(trial, (Term("fid", 1.0),)) == pytest.approx(stats.sem(rows[members]), rel=0.15)


def test_image_and_set_scores_with_weights_have_one_bootstrap() -> None:
    generator = np.random.default_rng(7)
    x, rows = generator.normal(size=(2, 80))
    weights = generator.uniform(0.5, 3.0, size=80)
    scores = Scores(by_item={"x": x}, by_set={"fid": float(rows.mean())}, weights=weights)
    both = Evidence(items=80, scores=scores, resampled={"fid": lambda draw: float(rows[draw].mean())})
    found = spread(x, weights)
    assert found is not None
    expected = np.hypot(found.error, stats.sem(rows))
    assert standard_error(both, (Term("x", 1.0), Term("fid", 1.0))) == pytest.approx(expected, rel=0.2)
    assert difference(both, both, X) == 0.0
