"""The picture of the best so far, which is drawn anew while a study runs, and the renders that a final keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from demo_study import begin
from PIL import Image
from reported_study import begin_reported, hold_final, store_pictures

from optimizer.sheets.comparison import column_heading
from optimizer.sheets.latest import LatestSheet
from optimizer.trial.ranking import best_trials
from studies.files.artifacts import sheet_name
from studies.records.values import Gain


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    return {"sharpness": (params["IN04"],) * 4, "contrast": (0.5,) * 4}


ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1}}}


def peak(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """A merge is the best: sharpness has its peak at 0.6 of B in IN04."""
    return {"sharpness": (1 - (params["IN04"] - 0.6) ** 2,) * 4, "contrast": (0.5,) * 4}


def test_it_shows_the_parents_and_the_best_and_is_drawn_anew_when_another_is_the_best(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", peak, trials=12, **ONE)
    trials = study.trials()
    latest = LatestSheet(study.records, study.artifacts, study.objective)
    assert latest.draw(trials[:2]) is None  # no renders are stored
    store_pictures(study, [trial.number for trial in trials])
    widths, pictures, best, shown = [], [], [], []
    for count in (1, 2, 3, 12):
        drawn = latest.draw(trials[:count])
        assert drawn is not None
        where = drawn.where
        shown.append(drawn.trials)
        assert where == f"{study.artifacts.location}/{sheet_name('one', study.records.study.key, 'latest')}"
        with Image.open(where) as picture:
            widths.append(picture.width)
            pictures.append(np.asarray(picture))
        sheet = latest.sheet(trials[:count])
        assert sheet is not None
        best.append(sheet.columns[-1][0].splitlines()[:2])
    assert widths[0] < widths[1] < widths[2] == widths[3], "the third column is the best merge"
    found = best_trials(trials, study.objective)[0]
    assert found.number not in (0, 1, 2)
    assert shown == [(0,), (0, 1), (0, 1, 2), (0, 1, found.number)]
    assert best[-1] == [f"trial {found.number}", "random, best (observed)"]
    assert best[2] == ["trial 2", "random, best (observed)"]
    assert not np.array_equal(pictures[2], pictures[3])
    assert not list(tmp_path.rglob("*.part"))


def test_what_the_final_refuted_is_not_called_better_there(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", peak, trials=12, **ONE)
    store_pictures(study, [trial.number for trial in study.trials()])
    hold_final(study, {trial.number: {"sharpness": (0.0,) * 4} for trial in study.trials()[2:]})
    sheet = LatestSheet(study.records, study.artifacts, study.objective).sheet(study.trials())
    assert sheet is not None
    heads = [heading.splitlines() for heading, _ in sheet.columns]
    assert heads[1] == ["B: b", "trial 1, best (final)"]
    assert heads[2][-1].startswith("-0.84")
    assert heads[2][-1].endswith(" held out")


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
    name = sheet_name("short", short.study.key, "latest")
    short.run(stop_after=1)
    first = short.artifacts.store.read(name)
    short.run()
    assert short.artifacts.store.read(name) != first
    short.database.close()
