"""The picture of the best so far, which is drawn anew while a study runs, and the renders that a final keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from demo_study import begin
from PIL import Image
from reported_study import begin_reported, store_pictures

from optimizer.observe.study_sheet import LatestSheet, column_heading
from optimizer.trial.ranking import best_trials
from studies.files.artifacts import picture_name
from studies.records.values import Gain


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    return {"sharpness": (params["IN04"],) * 4, "contrast": (0.5,) * 4}


ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1}}}


def test_it_shows_the_parents_and_the_best_and_is_drawn_anew_when_another_is_the_best(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", score, trials=8, **ONE)
    trials = study.trials()
    latest = LatestSheet(study.records, study.artifacts, study.objective)
    assert latest.draw(trials[:2]) is None  # no renders are stored
    store_pictures(study, [trial.number for trial in trials])
    sheets = []
    for count in (1, 2, 8):
        where = latest.draw(trials[:count])
        assert where == f"{study.artifacts.location}/{picture_name('one', study.records.study.key, 'latest')}"
        with Image.open(where) as picture:
            sheets.append((picture.width, np.asarray(picture)))
    best = best_trials(trials, study.objective)[0]
    assert best.origin.parent == "B"  # all of B in IN04 is the sharpest
    assert sheets[0][0] < sheets[1][0] == sheets[2][0]
    assert not np.array_equal(sheets[1][1], sheets[2][1])  # the number of trials above it is another
    assert not list(tmp_path.rglob("*.part"))


def test_a_column_is_headed_with_file_trial_and_gain(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", score, trials=4, **ONE)
    stored, trials = study.records.study, study.trials()
    gains = {"objective": Gain(value=1.234, low=0.98, high=1.48, parent="B")}
    assert column_heading(stored, trials[0], gains, study.objective) == "A: a\ntrial 0\n+1.23 (+0.98 to +1.48)"
    assert column_heading(stored, trials[1], gains, study.objective) == "B: b\ntrial 1"
    assert column_heading(stored, trials[3], gains, study.objective, "best so far").splitlines() == [
        "trial 3",
        "random, best so far",
        "+1.23 (+0.98 to +1.48)",
    ]


def test_a_worker_draws_it_after_its_trials(tmp_path: Path) -> None:
    small = {
        "final": {"top": 0},
        "sampler": {"name": "random"},
        "suite": {"prompts": ["an emoji of a lion"], "seeds": [1], "sizes": [64], "steps": 1},
        "scorers": {"sharpness": None},
        "objective": {"sharpness": None},
        "budget": {"trials": 3},
    }
    short = begin(tmp_path, small)
    name = picture_name("short", short.study.key, "latest")
    short.run(stop_after=1)
    first = short.artifacts.store.read(name)
    short.run()
    assert short.artifacts.store.read(name) != first
    short.database.close()
