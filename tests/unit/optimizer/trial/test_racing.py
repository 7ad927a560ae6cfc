"""When a trial is stopped, and what it is told as."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from slow_cases import first_fast
from trials import trial

from optimizer.rendering.batching import stages
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains
from optimizer.trial.objective import SINGLE, Objective, Scores, Term
from optimizer.trial.racing import Race
from optimizer.trial.ranking import best_trials, stopped_after, would_be_best
from scorers.registry import get_kind
from studies.spec.suite import SuiteSettings

Array = NDArray[np.float64]
TERMS = (Term("up", 2.0), Term("down", -0.5))
ITEMS, BATCH = 64, 16
STUDIES = 1000


def images(up: Array, down: Array | None = None) -> Evidence:
    by_item = {"up": up, "down": np.zeros(len(up)) if down is None else down}
    return Evidence(items=len(up), scores=Scores(by_item=by_item, by_set={}))


def race(incumbent: Evidence, *, confidence: float = 0.99, batch: int = BATCH, terms: tuple[Term, ...] = TERMS) -> Race:
    means = incumbent.scores.means
    return Race(
        incumbent=3,
        objective=sum(term.factor * means[term.scorer] for term in terms),
        evidence=incumbent,
        terms=terms,
        confidence=confidence,
        looks=-(-incumbent.items // batch) - 1,
    )


def looks(items: int, batch: int) -> list[range]:
    """What is rendered at each look; noise is exchangeable, so the order of the items does for a shuffled one."""
    return [range(count) for count in range(batch, items, batch)]


def stopped_at(one: Race, trial: Evidence, batch: int = BATCH) -> int | None:
    """After how many items the trial is stopped; None if it is rendered to its end."""
    return next((len(seen) for seen in looks(trial.items, batch) if not one.goes_on(seen, trial.part(seen))), None)


def error_rate(draw: str, confidence: float, batch: int) -> float:
    """Share of trials that are stopped though their mean over the whole suite is the incumbent's."""
    generator = np.random.default_rng(5)
    stopped = 0
    for _ in range(STUDIES):
        prompts, noise = generator.normal(0, 10, ITEMS), getattr(generator, draw)(size=ITEMS)
        one = race(images(prompts), confidence=confidence, batch=batch)
        stopped += stopped_at(one, images(prompts + noise - noise.mean()), batch) is not None
    return stopped / STUDIES


class TestDecision:
    @given(st.integers(0, 10**6), st.integers(8, 40), st.floats(-1.5, 0.5), st.sampled_from([0.6, 0.9, 0.99]))
    def test_it_is_students_test_on_the_paired_differences_for_a_suite_of_finite_size(
        self, seed: int, seen: int, shift: float, confidence: float
    ) -> None:
        noise = np.random.default_rng(seed).normal(0, 1, (4, ITEMS))
        incumbent, trial = images(noise[0], noise[1]), images(noise[0] + noise[2] + shift, noise[1] + noise[3])
        differences = (2 * (noise[2] + shift) - 0.5 * noise[3])[:seen]
        told = stats.ttest_1samp(differences, 0, alternative="less")
        unseen = 1 - seen / ITEMS  # share of the suite: an error of the mean, were it rendered whole, would be zero
        p = stats.t.cdf(told.statistic / np.sqrt(unseen), seen - 1)
        one = race(incumbent, confidence=confidence)
        assert one.goes_on(range(seen), trial.part(range(seen))) == bool(p >= (1 - confidence) / 3)

    @pytest.mark.parametrize("draw", first_fast(1, ["normal", "uniform", "laplace"]))
    @pytest.mark.parametrize(("confidence", "batch"), first_fast(1, [(0.8, 16), (0.95, 8)]))
    def test_a_merge_as_good_as_the_incumbent_is_stopped_no_more_often_than_was_allowed(
        self, draw: str, confidence: float, batch: int
    ) -> None:
        found, allowed = error_rate(draw, confidence, batch), 1 - confidence
        assert 0 < found <= allowed + 3 * np.sqrt(allowed * confidence / STUDIES)

    def test_one_that_is_much_better_on_few_prompts_is_stopped_somewhat_more_often(self) -> None:
        assert error_rate("exponential", 0.99, 16) < 0.1

    def test_a_clearly_worse_merge_is_stopped_at_the_first_look_and_a_better_one_never(self) -> None:
        generator = np.random.default_rng(6)
        for _ in range(50):
            prompts, noise = generator.normal(0, 10, ITEMS), generator.normal(0, 1, ITEMS)
            assert stopped_at(race(images(prompts)), images(prompts + noise - 3)) == BATCH
            assert stopped_at(race(images(prompts)), images(prompts + noise + 1)) is None

    def test_a_slightly_worse_merge_is_stopped_later(self) -> None:
        generator = np.random.default_rng(7)
        ends = []
        for _ in range(200):
            prompts, noise = generator.normal(0, 10, ITEMS), generator.normal(0, 1, ITEMS)
            ends.append(stopped_at(race(images(prompts)), images(prompts + noise - 0.6)))
        assert {None, 16, 32, 48} <= set(ends)

    def test_a_merge_that_renders_the_same_is_rendered_to_its_end(self) -> None:
        same = images(np.random.default_rng(8).normal(0, 1, ITEMS))
        assert stopped_at(race(same), same) is None

    def test_a_set_score_takes_part_with_its_bootstrap(self) -> None:
        generator = np.random.default_rng(9)
        terms = (Term("fid", -1.0),)
        noise = generator.normal(0, 1, (2, ITEMS))
        incumbent = with_set(noise[0])
        one = race(incumbent, terms=terms)
        assert stopped_at(one, with_set(noise[0] + noise[1] + 3)) == BATCH
        assert stopped_at(one, with_set(noise[0] + noise[1] - 3)) is None


def with_set(hidden: Array) -> Evidence:
    """A set score that is the mean of hidden values."""
    return Evidence(
        items=len(hidden),
        scores=Scores(by_item={}, by_set={"fid": float(hidden.mean())}),
        resampled={"fid": lambda draw: float(hidden[draw].mean())},
    )


class TestEstimate:
    @given(st.integers(0, 10**6))
    def test_estimates_of_all_stages_average_to_the_objective(self, seed: int) -> None:
        noise = np.random.default_rng(seed).normal(0, 1, (4, ITEMS))
        one, trial = race(images(noise[0], noise[1])), images(noise[2], noise[3])
        parts = np.random.default_rng(seed).permutation(ITEMS).reshape(4, BATCH).tolist()
        estimates = [one.estimate(part, trial.part(part)) for part in parts]
        assert np.mean(estimates) == pytest.approx(2 * noise[2].mean() - 0.5 * noise[3].mean())

    def test_prompts_that_are_hard_for_every_merge_do_not_count_against_a_trial(self) -> None:
        prompts = np.linspace(0, 100, ITEMS)
        one = race(images(prompts), terms=(Term("up", 1.0),))
        seen = range(BATCH)  # the worst of them
        assert one.estimate(seen, images(prompts[seen] - 1)) == pytest.approx(prompts.mean() - 1)

    def test_a_set_score_is_compared_on_the_same_items(self) -> None:
        hidden = np.random.default_rng(4).normal(0, 1, (2, ITEMS))
        one = race(with_set(hidden[0]), terms=(Term("fid", -1.0),))
        seen = list(range(5, 21))
        estimate = one.estimate(seen, with_set(hidden[1]).part(seen))
        assert estimate == pytest.approx(-hidden[0].mean() - (hidden[1][seen].mean() - hidden[0][seen].mean()))


class TestEvidenceOfSomeItems:
    @settings(max_examples=20)
    @given(st.lists(st.integers(0, 11), min_size=2, max_size=12, unique=True), st.integers(0, 10**6))
    def test_it_says_what_these_items_alone_would_say(self, items: list[int], seed: int) -> None:
        hidden = np.random.default_rng(seed).normal(0, 1, (4, 12))
        infos = {"up": get_kind("sharpness").info, "fid": get_kind("fid").info}
        objective = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("up", 1.0), Term("fid", -2.0)))

        def both(rows: Array) -> Evidence:
            scores = Scores(by_item={"up": rows[0]}, by_set={"fid": float(rows[1].mean())})
            return Evidence(
                items=rows.shape[1], scores=scores, resampled={"fid": lambda draw: float(rows[1][draw].mean())}
            )

        parts = [both(rows).part(items) for rows in (hidden[:2], hidden[2:])]
        alone = [both(rows[:, items]) for rows in (hidden[:2], hidden[2:])]
        found, expected = (gains(one, {"A": other}, objective, infos) for one, other in (parts, alone))
        assert found == expected


# ---------------------------------------------------------------------------------------------- order


def suite(prompts: int, **changes: object) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": [f"prompt {index}" for index in range(prompts)]} | changes)


class TestStages:
    @given(st.integers(1, 70), st.integers(4, 40))
    def test_every_item_is_in_one_stage_and_all_stages_but_the_last_are_full(self, prompts: int, size: int) -> None:
        settings = suite(prompts)
        found = stages(settings, size)
        assert sorted((item for stage in found for item in stage), key=lambda item: item.index) == list(
            settings.items()
        )
        assert [len(stage) for stage in found[:-1]] == [size] * (len(found) - 1)
        assert 1 <= len(found[-1]) <= size
        assert all(list(stage) == sorted(stage, key=lambda item: item.index) for stage in found)

    def test_the_order_follows_from_the_suite_alone(self) -> None:
        numbers = first_stage(suite(40))
        assert first_stage(suite(40)) == numbers
        assert first_stage(suite(40, steps=21)) != numbers
        assert numbers != list(range(16))

    def test_the_order_stays_the_same_for_ever(self) -> None:
        # Stored renders are compared with later ones bit by bit, and their last bits depend on this.
        assert first_stage(suite(12), 4) == [0, 1, 3, 9]

    def test_another_order_is_another_division(self) -> None:
        settings = suite(40)
        found = stages(settings, 16, "0" * 64)
        assert stages(settings, 16, settings.digest) == stages(settings, 16) != found
        assert sorted(item.index for stage in found for item in stage) == list(range(40))

    def test_without_racing_there_is_one_stage_in_the_suites_order(self) -> None:
        settings = suite(9)
        assert stages(settings, None) == (settings.items(),)


def first_stage(settings: SuiteSettings, size: int = 16) -> list[int]:
    return [item.index for item in stages(settings, size)[0]]


# ------------------------------------------------------------------------------------------- standing


ROW = replace(trial(0, objective=1.0), rendered=16)
ONE = Objective(names=(SINGLE,), directions=("maximize",), terms=(Term("up", 1.0),))


def test_a_stopped_trial_is_never_the_best_whatever_its_estimate() -> None:
    stopped = replace(ROW, number=1, objectives={SINGLE: 9.0}, rendered=4, incumbent=0)
    assert best_trials([ROW, stopped], ONE) == [ROW]
    assert best_trials([stopped], ONE) == []
    assert would_be_best({SINGLE: 2.0}, [ROW, stopped], ONE)
    assert stopped_after(stopped, 16) == "stopped after 4 of 16 images"
    assert stopped_after(ROW, 16) == ""
