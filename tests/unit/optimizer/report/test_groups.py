"""Gains by group of prompts, as tables, on the report and as JSON; and what is said of an interval's basis."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import caller, enter
from numpy.typing import NDArray
from reported_study import ReportedStudy, begin_reported, hold_final
from scipy import stats

from optimizer.report.groups import gains_by_group
from optimizer.report.results import results_of
from studies.records import stored_trials
from studies.records.stored_renders import load_scores

SUITE: Mapping[str, Any] = {
    "prompts": [
        {"prompt": "a cat", "group": "animals"},
        {"prompt": "a dog", "group": "animals"},
        {"prompt": "a fox", "group": "animals"},
        {"prompt": "a sign that reads yes", "group": "text"},
        "a bee",
        "a house",
    ],
    "seeds": [1, 2],
}
ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1, "unit": 1}}, "suite": SUITE}
ITEMS = 12


def ratios_matter(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Sharpness is best at 0.6 of B in IN04, and gains most on the last prompts."""
    base, strange = 1 - (params["IN04"] - 0.6) ** 2, [0.3, 0.1, -0.2, 0.4, 0.0, 0.25]
    return {
        "sharpness": tuple(base + params["IN04"] * (strange[item // 2] + item % 2 / 10) for item in range(ITEMS)),
        "contrast": tuple(1 - 0.2 * params["M00"] + item / 100 for item in range(ITEMS)),
    }


@pytest.fixture
def study(tmp_path: Path) -> ReportedStudy:
    return begin_reported(tmp_path, "one", ratios_matter, trials=20, **ONE)


@pytest.fixture
def show(
    study: ReportedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What `study show` prints."""
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")
    call = caller(monkeypatch, capsys)
    return lambda *options: call("study", "show", "one", "--storage", "study.db", *options, code=0).out


def differences(study: ReportedStudy) -> NDArray[np.float64]:
    """By how much the best trial is sharper than the better parent, [prompts, seeds]."""
    results = results_of(study.records, study.objective)
    parent = results.parents[results.gains["objective"].parent]
    own, other = (load_scores(study.records, trial)[0]["sharpness"] for trial in (results.shown, parent))
    found: NDArray[np.float64] = (np.array(own) - np.array(other)).reshape(6, 2)
    return found


def test_a_groups_gain_is_that_of_its_prompts_alone(study: ReportedStudy) -> None:
    found = gains_by_group(results_of(study.records, study.objective), held_out=False)
    assert [(each.group, each.prompts, each.items) for each in found.groups] == [
        ("animals", 3, 6), ("text", 1, 2), (None, 2, 4),
    ]  # fmt: skip
    for each, rows in zip(found.groups, (slice(0, 3), slice(3, 4), slice(4, 6)), strict=True):
        own = differences(study)[rows]
        gain = each.gains["objective"]
        assert gain.value == pytest.approx(own.mean())
        of = own.mean(axis=1) if len(own) > 1 else own[0]  # a single prompt has its images
        expected = stats.ttest_1samp(of, 0).confidence_interval(0.95)
        assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
        assert gain.basis == ("prompts" if len(own) > 1 else "images")


def test_show_the_report_and_json_have_them(study: ReportedStudy, show: Callable[..., str]) -> None:
    said, data = (
        show(),
        json.loads(show("--json")),
    )
    assert "by group, in the search" in said
    assert "a single prompt, which say nothing about others: text" in said
    groups = data["groups"]["search"]
    assert [(each["group"], each["prompts"], each["images"]) for each in groups] == [
        ("animals", 3, 6), ("text", 1, 2), (None, 2, 4),
    ]  # fmt: skip
    assert groups[0]["gains"]["objective"]["basis"] == "prompts"
    assert f"{groups[0]['gains']['objective']['value']:+.3g}" in said
    page = study.page()
    assert "Gains by group of prompts" in page
    assert ">animals</th>" in page
    assert ">no group</th>" in page


def test_once_the_final_has_judged_its_gains_count(study: ReportedStudy, show: Callable[..., str]) -> None:
    hold_final(study, {})
    said = show()
    assert "by group, held out" in said
    assert "by group, in the search" not in said
    assert json.loads(show("--json"))["groups"]["held_out"][0]["gains"]


def test_a_study_without_groups_has_no_table(tmp_path: Path) -> None:
    plain = begin_reported(
        tmp_path, "plain", ratios_matter, trials=6, **{**ONE, "suite": {"prompts": list("abcdef"), "seeds": [1, 2]}}
    )
    found = gains_by_group(results_of(plain.records, plain.objective), held_out=False)
    assert (found.groups, found.names) == ((), ())
    assert "Gains by group" not in plain.page()


def test_the_scorers_that_look_at_a_group_make_its_gain(tmp_path: Path) -> None:
    scorers = {"sharpness": {"groups": ["animals"]}, "contrast": None}
    only = [0.0] * 6 + [float("nan")] * 6

    def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        values = ratios_matter(params)
        return {**values, "sharpness": tuple(np.array(values["sharpness"]) + only)}

    objectives = {"objectives": ["sharpness", "contrast"], "suite": SUITE, "scorers": scorers}
    study = begin_reported(tmp_path, "two", score, trials=12, **objectives)
    results = results_of(study.records, study.objective)
    assert results.shown.origin.parent is None
    found = gains_by_group(results, held_out=False)
    assert [sorted(each.gains) for each in found.groups] == [["contrast", "sharpness"], ["contrast"], ["contrast"]]


def test_intervals_of_an_earlier_version_are_told_as_such(study: ReportedStudy, show: Callable[..., str]) -> None:
    said = "intervals are over images, as an earlier version had it"
    assert said not in show()
    for trial in study.trials():
        former = {name: replace(gain, basis=None) for name, gain in trial.gains.items()}
        stored_trials.store_gains(study.records, trial, former, trial.errors)
    assert said in show()


def test_a_suite_of_one_prompt_says_that_its_intervals_are_over_images(tmp_path: Path) -> None:
    suite = {"prompts": ["a cat"], "seeds": list(range(ITEMS))}
    one = begin_reported(tmp_path, "single", ratios_matter, trials=20, **{**ONE, "suite": suite})
    assert (
        "All images have one prompt, so intervals are over images: they say nothing about other prompts" in one.page()
    )
