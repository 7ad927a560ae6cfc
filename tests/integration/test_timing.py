"""What is said of a study's time is what it takes: measured on the demo's checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_study import SMALL, begin, short_spec

from optimizer.rendering.prediction import EPSILON
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan
from optimizer.runtime.timing import BatchTiming, study_timing, time_batch, timed_batch, trials_within, work_of
from studies.spec.search import BudgetSettings
from studies.spec.study import parse_spec
from studies.spec.suite import SuiteSettings


def plan_of(folder: Path, **changes: Any) -> Plan:
    return make_plan(parse_spec(yaml.safe_dump(short_spec(**{**SMALL, **changes})), base_dir=folder))


def suite(**changes: Any) -> SuiteSettings:
    settings = {"prompts": ["a cat"], "sampler": "euler", "steps": 10, "sizes": [64]}
    return SuiteSettings.model_validate(settings | changes)


def test_work_is_calls_of_the_unet_times_pixels() -> None:
    assert work_of(suite().items(), EPSILON, "a1111") == 2 * 10 * 64 * 64
    assert work_of(suite(cfg=1, seeds=[1, 2, 3]).items(), EPSILON, "a1111") == 3 * 10 * 64 * 64
    enlarged = suite(hires={"scale": 2, "steps": 5, "denoise": 0.5})
    assert work_of(enlarged.items(), EPSILON, "a1111") > 2 * (10 * 64 * 64 + 5 * 128 * 128) * 0.9


def test_the_largest_batch_is_measured() -> None:
    mixed = suite(prompts=[{"prompt": "alone", "steps": 3}, "a cat"], seeds=[1, 2, 3])
    assert [item.prompt for item in timed_batch(mixed, None)] in (["alone"] * 3, ["a cat"] * 3)
    assert len(timed_batch(mixed, 2)) == 2


@pytest.mark.parametrize(
    ("budget", "trials"),
    [({"trials": 50}, 50), ({"trials": 50, "images": 100}, 13), ({"trials": 50, "minutes": 2}, 12),
     ({"trials": 50, "minutes": 0.01}, 1)],
)  # fmt: skip
def test_a_study_ends_at_the_first_limit_of_its_budget(budget: dict[str, float], trials: int) -> None:
    assert trials_within(BudgetSettings.model_validate(budget), trial_seconds=10.0, images=8) == trials


def test_twice_the_images_take_twice_the_time(tmp_path: Path) -> None:
    batch = BatchTiming(
        images=2,
        work=float(2 * 2 * 64 * 64),
        merge_seconds=1.0,
        render_seconds=4.0,
        score_seconds=2.0,
        unscored=(),
        png_bytes=2000,
        sheet_bytes=1000,
        pixels=2 * 64 * 64,
        host_bytes=0,
        device_bytes=None,
    )
    few = study_timing(plan_of(tmp_path), batch)
    assert few.trial_seconds == pytest.approx(7.0)
    assert few.seconds == pytest.approx(13 * 7.0)
    more = SMALL["suite"] | {"seeds": [1, 2, 3, 4]}
    plan = plan_of(tmp_path, suite=more, final={"top": 1}, render={"keep": "all", "degenerate_limit": 8})
    many = study_timing(plan, batch)
    assert many.trial_seconds == pytest.approx(13.0)
    assert many.final_seconds == pytest.approx(3 * 13.0)
    assert many.stored_bytes == pytest.approx(1000 * 4 * (13 + 3) + 500 * 4 * 13)


def test_what_is_measured_is_what_a_study_takes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, suite=SMALL["suite"] | {"steps": 8})
    told = study_timing(plan, time_batch(plan, hash_parents(plan), tmp_path / "cache"))
    study = begin(tmp_path, {**SMALL, "suite": SMALL["suite"] | {"steps": 8}})
    start = time.perf_counter()
    assert len(study.run().finished) == told.trials == 13
    taken = time.perf_counter() - start
    assert taken / 8 < told.seconds < taken * 8  # a busy machine may be several times slower at one of the two
    stored = sum(file.stat().st_size for file in (tmp_path / "artifacts").rglob("*") if file.is_file())
    assert stored / 4 < told.stored_bytes < stored * 4
