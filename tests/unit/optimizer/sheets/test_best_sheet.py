"""The picture of the parents beside the best: whose renders it shows, those of the search or of the final."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from reported_study import ReportedStudy, begin_reported, hold_final, store_final_pictures, store_pictures

from optimizer.sheets.best import save_best_sheet
from optimizer.sheets.latest import LatestSheet
from optimizer.trial.best import load_best
from studies.records.kept_renders import render_name
from studies.records.stored_renders import load_renders

ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1, "unit": 1}}}
TWO: Mapping[str, Any] = {"objectives": ["sharpness", "contrast"]}


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    sharpness = tuple(1 - (params["IN04"] - 0.6) ** 2 + item / 100 for item in range(4))
    return {"sharpness": sharpness, "contrast": tuple(1 - value for value in sharpness)}


def sheet(study: ReportedStudy) -> NDArray[np.uint8]:
    where = save_best_sheet(study.records, study.artifacts)
    assert where is not None
    with Image.open(where) as picture:
        return np.asarray(picture)


def with_pictures(folder: Path, **changes: Any) -> tuple[ReportedStudy, int]:
    """Return a study with the pictures of search and final of every trial, and the number of the best trial."""
    study = begin_reported(folder, "one", score, trials=8, **(changes or ONE))
    numbers = [trial.number for trial in study.trials()]
    store_pictures(study, numbers)
    hold_final(study, {})
    store_final_pictures(study, numbers)
    best = load_best(study.records, study.objective)
    assert best is not None
    assert best.merge is not None
    return study, best.merge.number


def test_what_the_final_chose_is_shown_as_the_final_rendered_it(tmp_path: Path) -> None:
    study, best = with_pictures(tmp_path)
    drawn = sheet(study)
    store_pictures(study, [0, 1, best], size=(64, 96))  # other renders of the search
    assert np.array_equal(sheet(study), drawn)
    store_final_pictures(study, [best], size=(64, 96))
    assert not np.array_equal(sheet(study), drawn)


def test_where_the_final_rendered_something_that_is_not_stored_the_search_is_shown(tmp_path: Path) -> None:
    study, best = with_pictures(tmp_path)
    drawn = sheet(study)
    files, label = (
        study.artifacts.of_final(study.records.study.key),
        study.records.study.spec.held_out.render_labels()[0],
    )
    study.artifacts.store.remove(files.name(render_name(0, label)))
    of_search = sheet(study)
    assert not np.array_equal(of_search, drawn)
    store_final_pictures(study, [best], size=(64, 96))
    assert np.array_equal(sheet(study), of_search)


@pytest.mark.parametrize("which", ["a front", "no final"])
def test_what_no_final_chose_is_shown_as_the_search_rendered_it(tmp_path: Path, which: str) -> None:
    if which == "a front":
        study, _ = with_pictures(tmp_path, **TWO)
    else:
        study = begin_reported(tmp_path, "one", score, trials=8, **ONE)
        store_pictures(study, [trial.number for trial in study.trials()])
    drawn = sheet(study)
    store_final_pictures(study, [trial.number for trial in study.trials()], size=(64, 96))
    assert np.array_equal(sheet(study), drawn)
    store_pictures(study, [0], size=(64, 96))
    assert not np.array_equal(sheet(study), drawn)


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", "half"])
def test_a_damaged_render_is_no_picture_and_stops_no_sheet(tmp_path: Path, damage: bytes | str) -> None:
    study = begin_reported(tmp_path, "one", score, trials=8, **ONE)
    trials = study.trials()
    store_pictures(study, [trial.number for trial in trials])
    name = str(load_renders(study.records, trials[0])[1].file)
    whole = study.artifacts.store.read(name)
    study.artifacts.store.write(name, whole[: len(whole) // 2] if isinstance(damage, str) else damage)
    assert save_best_sheet(study.records, study.artifacts) is None
    assert LatestSheet(study.records, study.artifacts, study.objective).draw(trials) is None
    study.artifacts.store.write(name, whole)
    assert save_best_sheet(study.records, study.artifacts) is not None
