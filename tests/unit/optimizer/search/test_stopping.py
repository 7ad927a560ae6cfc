"""When a study ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from trials import trial

from optimizer.search.proposal import Proposal
from optimizer.search.stopping import Expectation, end_by_budget, expectations, images_of, minutes_of
from studies.records.values import StoredTrial
from studies.spec.study import StudySpec

# The clock was set back by an hour while the trial ran: what it took is known all the same.
ROW = replace(
    trial(0, objective=1.0), started_at=5000.0, finished_at=1490.0, seconds={"merge": 10.0, "other": 80.0}, rendered=6
)


def spec(**budget: float) -> StudySpec:
    return StudySpec.model_validate(
        {
            "study": "s",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "suite": {"prompts": ["cat", "dog"], "seeds": [1, 2, 3]},
            "scorers": {"sharpness": None},
            "budget": budget,
        },
        context={"base_dir": Path("/")},
    )


def rows(complete: int, failed: int = 0, running: int = 0) -> list[StoredTrial]:
    return (
        [ROW] * complete
        + [replace(ROW, state="failed", seconds={"other": 30.0}, rendered=4)] * failed
        + [replace(ROW, state="running", finished_at=None, seconds={}, rendered=0)] * running
    )


def test_trials_copied_from_another_study_cost_nothing() -> None:
    copied = [replace(ROW, source="old trial 3")] * 40
    for budget, made, asked, what in (
        ({"trials": 3}, rows(2), 2, None),
        ({"trials": 3}, rows(2, running=1), 3, "3 trials"),
        ({"trials": 9, "images": 12}, rows(1), 1, None),
        ({"trials": 9, "images": 12}, rows(2), 2, "12 images"),
        ({"trials": 9, "minutes": 2}, rows(1), 1, None),
    ):
        end = end_by_budget(spec(**budget), copied + made, len(copied) + asked, ())
        assert (end is None) if what is None else (end is not None and what in end.reason)


def test_finished_trials_cost_what_they_rendered_and_running_ones_nothing_yet() -> None:
    made = rows(complete=2, failed=1, running=3)
    assert images_of(made) == 2 * 6 + 4
    assert minutes_of(made) == pytest.approx((90 + 90 + 30) / 60)


@pytest.mark.parametrize(
    ("budget", "made", "asked", "what"),
    [
        ({"trials": 3}, rows(3), 3, "the budget of 3 trials is spent"),
        ({"trials": 3}, rows(2), 2, None),
        ({"trials": 3}, rows(2, running=1), 3, "the budget of 3 trials is spent"),
        ({"images": 12}, rows(2), 2, "the budget of 12 images is spent"),
        ({"images": 13}, rows(2), 2, None),
        ({"images": 12}, rows(1, running=5), 6, None),
        ({"minutes": 3}, rows(2), 2, "the budget of 3 minutes of work is spent"),
        ({"minutes": 3.1}, rows(2), 2, None),
    ],
)
def test_the_first_budget_that_is_spent_ends_the_study(
    budget: dict[str, float], made: list[StoredTrial], asked: int, what: str | None
) -> None:
    end = end_by_budget(spec(**budget), made, asked, ())
    assert (end and end.reason) == what
    assert end is None or end.key in budget


def promised(*improvements: float, noise: float = 1.0) -> list[Expectation]:
    return [Expectation(improvement=value, noise=noise) for value in improvements]


class TestPatience:
    @pytest.mark.parametrize(
        ("patience", "expected", "ends"),
        [
            (3, promised(0.3, 0.3, 0.3), True),
            (3, promised(0.3, 0.3), False),
            (3, promised(9.0, 0.3, 0.3, 0.3), True),
            (3, promised(0.1, 0.1, 0.1, 0.9), False),
            (3, promised(0.4, 0.3, 0.3), False),
            (1, promised(0.9), True),
            (2, promised(0.3, noise=0.1) + promised(0.3), True),
            (2, promised(0.3) + promised(0.3, noise=0.1), False),
            (1, [], False),
        ],
    )
    def test_it_ends_when_the_last_trials_together_promised_less_than_the_noise(
        self, patience: int, expected: list[Expectation], ends: bool
    ) -> None:
        end = end_by_budget(spec(patience=patience), rows(20), 20, expected)
        assert (end is not None) == ends
        assert end is None or end.key == "patience"

    def test_it_is_told_in_words(self) -> None:
        end = end_by_budget(spec(patience=10), rows(20), 20, promised(*[0.01] * 10, noise=0.1234))
        assert end is not None
        assert end.reason == "the last 10 trials together were expected to gain less than 0.123, the noise of one trial"

    def test_without_it_no_expectation_ends_a_study(self) -> None:
        assert end_by_budget(spec(), rows(20), 20, promised(*[0.0] * 20)) is None

    def test_expectations_are_those_of_finished_trials_by_number(self) -> None:
        def trial(number: int, state: TrialState, improvement: float | None) -> FrozenTrial:
            values = [1.0] if state == TrialState.COMPLETE else None
            found = create_trial(state=state, values=values)
            expectation = None if improvement is None else Expectation(improvement=improvement, noise=0.5)
            found.number, found.system_attrs = number, dict(Proposal(params={}, expectation=expectation).attributes())
            return found

        trials = [
            trial(4, TrialState.RUNNING, 0.4),
            trial(2, TrialState.FAIL, 0.2),
            trial(1, TrialState.COMPLETE, 0.1),
            trial(0, TrialState.COMPLETE, None),
        ]
        assert expectations(trials) == promised(0.1, 0.2, noise=0.5)
