"""Studies that an earlier version began with a suite that renders an image more than once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, caller, enter
from scipy import stats
from slow_cases import first_fast
from stored_study import store_study

from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains
from optimizer.trial.objective import SINGLE, Objective, Scores
from optimizer.trial.ranking import parent_trials
from optimizer.trial.repeats import first_of_each, positions_once
from search_spaces.blocks import Architecture
from studies.records import stored_trials
from studies.records.database import Database, open_database
from studies.records.finals import Final, Finalist, store_final
from studies.records.stored_renders import load_scores
from studies.records.study_records import StudyRecords
from studies.spec.suite import SuiteSettings

TWICE = 2**32
SUITES: dict[str, dict[str, Any]] = {  # each renders two images, the second and fourth item being repeats
    "seeds": {"prompts": ["a cat", "a dog"], "seeds": [1, TWICE + 1]},
    "capitals": {"prompts": ["a cat", "A  Cat", "a dog", "a DOG"]},
    "accents": {"prompts": ["café", "cafe\u0301", "thé", "the\u0301"]},
    "negatives": {
        "prompts": [{"prompt": name, "negative": text} for name in ("a cat", "a dog") for text in ("dark", "")],
        "cfg": 1,
    },
}


def scores(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Two images that differ much, each of them twice."""
    ratio = params["IN04"]
    sharpness = tuple(1 - (ratio - 0.6) ** 2 + image * (0.3 + 0.2 * ratio) for image in (0.0, 0.0, 1.0, 1.0))
    return {"sharpness": sharpness, "contrast": sharpness}


def begun(folder: Path, suite: Mapping[str, Any]) -> tuple[Database, StudyRecords]:
    """A study with the gains and the final that counted every repeat, as they were stored."""
    database = open_database(f"sqlite:///{folder}/mergetune.db")
    records = store_study(
        database,
        "old",
        scores,
        trials=6,
        suite=suite,
        objective={"sharpness": {"weight": 1}},
        final={"top": 3, "seeds": [5, TWICE + 5]} if "seeds" in suite else {"top": 3, "seeds": [5]},
    )
    trials = stored_trials.load_trials(records)
    objective, infos = Objective.of_study(records.study), records.study.spec.infos
    evidence = {trial.number: evidence_of(records, trial.number) for trial in trials}
    parents = {letter: evidence[trial.number] for letter, trial in parent_trials(trials).items()}
    for trial in trials:
        stored_trials.store_gains(records, trial, gains(evidence[trial.number], parents, objective, infos), {})
    finalists = [
        Finalist(
            number=trial.number,
            origin=trial.origin,
            objectives=trial.objectives,
            image_scores=load_scores(records, trial)[0],
            held_out=gains(evidence[trial.number], {"A": parents["A"]}, objective, infos) if trial.number == 4 else {},
            chosen=trial.number == 4,
        )
        for trial in trials
        if trial.number in {0, 1, 4}
    ]
    store_final(records, Final(suite_digest="0" * 64, complete_trials=6, finalists=tuple(finalists)))
    return database, records


def evidence_of(records: StudyRecords, number: int) -> Evidence:
    trial = stored_trials.load_trials(records)[number]
    by_item, _ = load_scores(records, trial)
    return Evidence(items=4, scores=Scores(by_item={key: np.array(row) for key, row in by_item.items()}, by_set={}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize("kind", first_fast(1, SUITES))
def test_every_command_says_so_in_one_line(kind: str, tmp_path: Path, call: Call) -> None:
    database, _ = begun(tmp_path, SUITES[kind])
    database.close()
    commands = (
        ("study", "show", "old"),
        ("study", "resume", "old", "--trials", "6"),
        ("study", "resume", "old", "--detach"),
        ("export", "old", "--trial", "4", "--recipe", "r.yaml"),
    )
    for arguments in commands:
        said = [line for line in call(*arguments, code=0).out.splitlines() if "render the same image" in line]
        assert len(said) == 1
        assert "gains and intervals count it once" in said[0]


@pytest.mark.parametrize("kind", SUITES)
def test_intervals_count_each_image_once(kind: str, tmp_path: Path, call: Call) -> None:
    database, records = begun(tmp_path, SUITES[kind])
    trial, parent = (evidence_of(records, number).scores.by_item["sharpness"] for number in (4, 0))
    better = stored_trials.load_trials(records)[4].gains[SINGLE].parent
    parent = evidence_of(records, "AB".index(better)).scores.by_item["sharpness"]
    low, high = stats.t.interval(0.95, 1, *_mean_and_error((trial - parent)[[0, 2]]))
    assert f"({low:+.3g} to {high:+.3g})" in call("study", "show", "old", "--trials", code=0).out
    stored = stored_trials.load_trials(records)[4].gains[SINGLE]
    assert stored.high is not None
    assert f"to {stored.high:+.3g})" not in call("study", "show", "old", "--trials", code=0).out
    database.close()


def _mean_and_error(values: Any) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def test_a_final_over_repeats_is_heard_with_what_its_images_say(tmp_path: Path, call: Call) -> None:
    database, records = begun(tmp_path, SUITES["seeds"])
    trial, parent = (evidence_of(records, number).scores.by_item["sharpness"] for number in (4, 0))
    low, high = stats.t.interval(0.95, 1, *_mean_and_error((trial - parent)[[0, 2]]))
    shown = call("study", "show", "old", code=0).out
    assert f"({low:+.3g} to {high:+.3g}) over parent A" in shown
    database.close()


@pytest.mark.parametrize("kind", SUITES)
def test_the_first_of_equal_images_is_found(kind: str) -> None:
    suite = SuiteSettings.model_validate(SUITES[kind])
    assert first_of_each(suite, Architecture.SD15) == (0, 0, 2, 2)
    assert positions_once([1, 3, 2, 0], (0, 0, 2, 2)) == [0, 1]


@pytest.mark.parametrize(
    "prompts", [["a cat", "a dog"], ["caf\u00e9", "cafe"], ["猫", "犬"], ["x" * 90, "x" * 90 + " y"]]
)
def test_images_that_differ_count_each(prompts: list[str]) -> None:
    suite = SuiteSettings.model_validate({"prompts": prompts, "seeds": [0, 1]})
    assert first_of_each(suite, Architecture.SD15) is None
