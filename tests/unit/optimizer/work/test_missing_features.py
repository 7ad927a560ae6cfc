"""A set score beside that of single images, in a study of an earlier version that goes on without some features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_trial_recorder import Desk, make_former
from unrendered_study import UnrenderedStudy, begin_unrendered, evaluation

from optimizer.errors import StorageError
from optimizer.trial.evaluation import Evaluation
from studies.files.artifacts import FEATURES
from studies.records import stored_trials
from studies.records.cached_reads import CachedTrials
from studies.records.values import StoredTrial


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def study(tmp_path: Path, cache: Path) -> UnrenderedStudy:
    """Three trials, the parents first."""
    (tmp_path / "colours").mkdir()
    Image.new("RGB", (64, 64), (200, 100, 50)).save(tmp_path / "colours" / "orange.png")
    study = begin_unrendered(
        tmp_path,
        budget={"trials": 8},
        suite={"prompts": ["a lion", "a cat", "a fox"], "seeds": [1, 2], "sizes": [64], "steps": 1},
        scorers={"sharpness": None, "tone": {"reference": str(tmp_path / "colours")}},
        objective={"sharpness": None, "tone": None},
    )
    desk = Desk(study, cache)
    for number in range(3):
        desk.record_evaluation(evaluated(study, cache, number))
    return study


def evaluated(study: UnrenderedStudy, cache: Path, number: int) -> Evaluation:
    made = evaluation(*(float(number * item) for item in range(6)))
    noise = torch.Generator().manual_seed(number)
    images = tuple(torch.randint(0, 256, (3, 8, 8), generator=noise).to(torch.uint8) for _ in made.images)
    scoring = study.scoring(cache)
    scored = scoring.score(study.records.study.spec.suite.items(), images)
    scores = replace(scoring.scores(scored), by_item=made.scores.by_item)
    return replace(made, scores=scores, features=scored.features)


def go_on(study: UnrenderedStudy, cache: Path, number: int) -> list[StoredTrial]:
    """Let another worker record a trial, and return those before it."""
    desk = Desk(replace(study, cached_trials=CachedTrials(study.records)), cache)
    desk.record_evaluation(evaluated(study, cache, number))
    return stored_trials.load_trials(study.records)[:3]


def features(study: UnrenderedStudy, number: int) -> str:
    trial = stored_trials.load_trials(study.records)[number]
    return study.artifacts.of_trial(study.records.study.key, number, trial.worker_id).name(FEATURES)


def test_gains_in_set_scores_stay_until_the_features_are_there_again(
    study: UnrenderedStudy, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = stored_trials.load_trials(study.records)
    assert now[2].gains.keys() == {"objective", "sharpness", "tone"}
    make_former(study)
    former = stored_trials.load_trials(study.records)[2].gains
    store, name = study.artifacts.store, features(study, 2)
    content = store.read(name)
    store.remove(name)
    *parents, trial = go_on(study, cache, 3)
    assert [parent.gains for parent in parents] == [parent.gains for parent in now[:2]]
    assert trial.gains == {**former, "sharpness": now[2].gains["sharpness"]}
    assert trial.errors == now[2].errors
    (line,) = [record.getMessage() for record in caplog.records if "features" in record.getMessage()]
    assert line.startswith("features of tone are not in ")
    assert " for 1 trial (2): " in line
    store.write(name, content)
    assert [trial.gains for trial in go_on(study, cache, 4)] == [trial.gains for trial in now]


def test_a_trial_that_never_had_an_interval_has_its_gain_without_one(study: UnrenderedStudy, cache: Path) -> None:
    now = stored_trials.load_trials(study.records)[2]
    stored_trials.store_gains(study.records, now, {})
    study.artifacts.store.remove(features(study, 2))
    trial = go_on(study, cache, 3)[2]
    assert trial.gains["sharpness"] == now.gains["sharpness"]
    for name in ("objective", "tone"):
        assert trial.gains[name] == replace(now.gains[name], low=None, high=None, basis=None)


def test_those_of_a_parent_cannot_be_done_without(study: UnrenderedStudy, cache: Path) -> None:
    study.artifacts.store.remove(features(study, 1))
    with pytest.raises(StorageError, match=r"features of tone for trial 1, a parent, .* with --artifacts"):
        go_on(study, cache, 3)
