"""A study whose prompts have weights and are left out of scorers, from its renders to what is shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from demo_study import SMALL, begin

from optimizer.trial.stored_scores import trial_scores
from studies.records.stored_renders import load_scores
from studies.records.stored_trials import load_trials
from studies.spec.published.files import read_published


def test_weights_and_exceptions_reach_scores_gains_and_objectives(tmp_path: Path) -> None:
    prompts = ["a lion", {"prompt": "a cat", "weight": 3, "without": ["contrast"]}]
    short = begin(
        tmp_path,
        dict(SMALL) | {
            "suite": {"prompts": prompts, "seeds": [1, 2], "sizes": [64], "steps": 1},
            "scorers": {"sharpness": None, "contrast": None},
            "objective": {"sharpness": None},
            "budget": {"trials": 3},
            "render": {"degenerate_limit": 8, "keep": "all"},
        },
    )  # fmt: skip
    short.run()
    rows = load_trials(short.records)
    for row in rows:
        by_item, _ = load_scores(short.records, row)
        assert [math.isnan(value) for value in by_item["contrast"]] == [False, False, True, True]
        expected = np.average(by_item["sharpness"], weights=[1, 1, 3, 3])
        assert trial_scores(short.records, row).means["sharpness"] == pytest.approx(expected)
        unit = short.runtime.infos["sharpness"].unit
        assert row.objectives["objective"] == pytest.approx(expected / unit)
        assert {"sharpness", "contrast", "objective"} == row.gains.keys()
    files = sorted(tmp_path.rglob("trial-*-prompt-02-seed-2.png"))
    assert files
    found = read_published(files[0])
    assert (found.prompt, found.seed, found.width, found.steps) == ("a cat", 2, 64, 1)
