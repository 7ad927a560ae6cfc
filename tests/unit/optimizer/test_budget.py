"""When a study ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.budget import images_of, minutes_of, spent
from studies.recipe import Parent, Recipe
from studies.results import StoredTrial
from studies.spec import StudySpec

RECIPE = Recipe(architecture="sd15", parents=(Parent(letter="A", name="a", sha256="0" * 64),))
ROW = StoredTrial(
    id=1,
    number=0,
    origin="gp",
    recipe=RECIPE,
    worker_id="w",
    state="complete",
    reason=None,
    objectives={"objective": 1.0},
    gains={},
    seconds={},
    machine={},
    sheet=None,
    started_at=1000.0,
    finished_at=1090.0,
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
        + [replace(ROW, state="failed", finished_at=1030.0)] * failed
        + [replace(ROW, state="running", finished_at=None)] * running
    )


def test_trials_taken_over_from_another_study_cost_nothing() -> None:
    taken = [replace(ROW, source="old trial 3")] * 40
    for budget, made, asked, what in (
        ({"trials": 3}, rows(2), 2, None),
        ({"trials": 3}, rows(2, running=1), 3, "3 trials"),
        ({"trials": 9, "images": 12}, rows(1), 1, None),
        ({"trials": 9, "images": 12}, rows(2), 2, "12 images"),
        ({"trials": 9, "minutes": 2}, rows(1), 1, None),
    ):
        assert spent(spec(**budget), taken + made, len(taken) + asked) == what


def test_finished_trials_cost_images_and_minutes_and_running_ones_nothing_yet() -> None:
    made = rows(complete=2, failed=1, running=3)
    assert images_of(spec(), made) == 3 * 6
    assert minutes_of(made) == pytest.approx((90 + 90 + 30) / 60)


@pytest.mark.parametrize(
    ("budget", "made", "asked", "what"),
    [
        ({"trials": 3}, rows(3), 3, "3 trials"),
        ({"trials": 3}, rows(2), 2, None),
        ({"trials": 3}, rows(2, running=1), 3, "3 trials"),
        ({"images": 12}, rows(2), 2, "12 images"),
        ({"images": 13}, rows(2), 2, None),
        ({"images": 12}, rows(1, running=5), 6, None),
        ({"minutes": 3}, rows(2), 2, "3 minutes of work"),
        ({"minutes": 3.1}, rows(2), 2, None),
    ],
)
def test_the_first_budget_that_is_spent_ends_the_study(
    budget: dict[str, float], made: list[StoredTrial], asked: int, what: str | None
) -> None:
    assert spent(spec(**budget), made, asked) == what
