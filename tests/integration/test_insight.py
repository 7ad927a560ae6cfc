"""Importance, pictures and comparisons of studies in a real SQLite database, through the real command line."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from PIL import Image
from scipy import stats
from stored_study import store_study

from optimizer.cli import main
from optimizer.dashboard.figures import _can_draw, save_figures
from optimizer.insight.importance import BINS, insight, load_samples
from optimizer.search.shortlist import by_posterior, by_value, posterior_means
from optimizer.trial.objective import Objective
from studies.records import tables
from studies.records.database import open_database
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials
from studies.spec.fingerprints import files_of_scorer

NOISE = np.random.default_rng(7).normal(0, 0.01, (1000, 4))
DRAWS = iter(NOISE)


def one_block(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Only IN04 matters to sharpness, and only M00 to contrast."""
    noise = next(DRAWS)
    return {
        "sharpness": tuple(1 - (params["IN04"] - 0.7) ** 2 + noise),
        "contrast": tuple(1 - params["M00"] + noise),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("insight")
    database = open_database(f"sqlite:///{folder}/s.db")
    single: dict[str, Any] = {"objective": {"sharpness": {"weight": 1}}}
    store_study(database, "one", one_block, trials=60, failed=(7,), outside=True, **single)
    store_study(database, "again", one_block, trials=12, seed=5, **single)
    store_study(database, "front", one_block, trials=20, objectives=["sharpness", "contrast"])
    suite = {"prompts": ["a hat", "a dog", "a cow", "a pig"]}
    store_study(database, "other", one_block, trials=3, suite=suite, **single)
    otherwise: dict[str, Any] = {"prompts": ["A cat", "a  dog", "a fox", "a bee"], "seeds": [2**32]}
    store_study(database, "otherwise", one_block, trials=3, suite=otherwise, **single)
    database.close()
    return folder


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command of the real parser prints, in this process: loading torch for each would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["mergetune", *arguments, "--storage", "s.db"]
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main.run()
    finally:
        sys.argv = before
    assert left.value.code == code, out.getvalue() + err.getvalue()
    if code:
        assert len(err.getvalue().strip().splitlines()) == 1
    return out.getvalue() + err.getvalue()


def test_the_one_block_that_matters_is_found_and_its_effect_is_the_mean_of_its_trials(folder: Path) -> None:
    database = open_database(f"sqlite:///{folder}/s.db", create=False)
    records = open_study(database, "one")
    found = insight(records, Objective.of_study(records.study))
    shares = found.findings[0].shares
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == "IN04"
    assert (len(found.samples), found.left_out, found.reliable) == (58, 1, True)  # one failed, one whole parent
    told = [trial for trial in optuna.load_study(study_name="one", storage=database.storage).trials if trial.values]
    at = np.array([trial.params["IN04"] for trial in told])
    values = np.array([trial.value for trial in told], dtype=np.float64)
    means, _, _ = stats.binned_statistic(at, values, "mean", bins=BINS, range=(0, 1))
    assert [part.mean for part in found.findings[0].effects["IN04"]] == pytest.approx(list(means))
    database.close()


def test_importance_on_the_command_line_as_table_json_and_picture(folder: Path) -> None:
    facts = json.loads(run(folder, "study", "importance", "one", "--json"))
    rows = {row["name"]: row for row in facts["objectives"][0]["parameters"]}
    assert max(rows, key=lambda name: rows[name]["importance"]) == "IN04"
    assert facts["reliable"]
    assert max(rows, key=lambda name: rows[name]["model"]["share"]) == "IN04"
    curve = rows["IN04"]["model"]
    assert curve["mean"][0] == min(curve["mean"])  # farthest from the best value
    assert len(curve["at"]) == len(curve["mean"])
    assert list(rows).index("IN00") < list(rows).index("M00") < list(rows).index("OUT00")
    assert "not reliable yet: 20 complete trials" in run(folder, "study", "importance", "front")
    run(folder, "study", "importance", "one", "--plot", "one.png")
    with Image.open(folder / "one.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 200
    assert "--force" in run(folder, "study", "importance", "one", "--plot", "one.png", code=2)


def test_a_lucky_trial_among_mediocre_ones_is_ranked_by_what_the_model_believes(tmp_path: Path) -> None:
    draws = np.random.default_rng(3).normal(0, 0.02, (40, 4))
    luck = iter(range(40))

    def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        number = next(luck)
        lucky = 0.6 if number == 20 else 0.0
        return {"sharpness": tuple(params["IN"] + lucky + draws[number]), "contrast": (0.0,) * 4}

    database = open_database(f"sqlite:///{tmp_path}/s.db")
    changes: dict[str, Any] = {"objective": {"sharpness": {"weight": 1}}, "space": {"granularity": "sections"}}
    records = store_study(database, "luck", score, trials=40, seed=1, **changes)
    objective, rows = Objective.of_study(records.study), load_trials(records)
    ranked = by_posterior(records, objective, rows)(rows)
    means = posterior_means(records, objective, rows)["objective"]
    database.close()
    by_number = {row.number: row for row in rows}
    assert sorted(row.number for row in ranked) == sorted(by_number)
    assert [row.number for row in ranked] == sorted(means, key=lambda number: -means[number])
    place_observed = [row.number for row in by_value(objective)(rows)].index(20)
    assert [row.number for row in ranked].index(20) > place_observed
    assert means[20] < by_number[20].objectives["objective"] - 0.2


def test_where_no_model_can_be_fitted_the_observed_values_rank(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/s.db")
    records = store_study(database, "two", one_block, trials=2)
    trials = load_trials(records)
    objective = Objective.of_study(records.study)
    assert by_posterior(records, objective, trials)(trials) == by_value(objective)(trials)
    assert posterior_means(records, objective, trials) == {}
    database.close()


def test_too_few_trials_and_unknown_studies_are_one_line(folder: Path) -> None:
    assert "3 complete trials" in run(folder, "study", "importance", "other", code=2)
    assert "no study named" in run(folder, "study", "importance", "none", code=2)
    assert ".png" in run(folder, "study", "importance", "one", "--plot", "one.jpg", code=2)
    assert "twice" in run(folder, "study", "compare", "one", "one", code=2)
    assert "expected objectives of this study" in run(folder, "study", "show", "front", "--weights", "fid=1", code=2)
    assert "single" in run(folder, "study", "show", "one", "--weights", "sharpness=1", code=2)
    assert "--weights" in run(folder, "export", "front", "--trial", "1", "--weights", "sharpness=1", code=2)


def test_bests_of_equal_suites_are_paired_and_others_not(folder: Path) -> None:
    said = run(folder, "study", "compare", "one", "again")
    assert "over 4 images" in said
    assert "parents are different files" not in said
    assert "over 4 images" in run(folder, "study", "compare", "one", "otherwise")
    database = open_database(f"sqlite:///{folder}/s.db", create=False)
    with database.write() as connection:
        named = {files_of_scorer("sharpness"): "0" * 64}
        connection.execute(tables.studies.update().where(tables.studies.c.name == "again").values(fingerprints=named))
    database.close()
    assert "files it reads (weights, references) differ" in run(folder, "study", "compare", "one", "again")
    said = run(folder, "study", "compare", "one", "other")
    assert "suite.prompts" in said
    assert "sharpness: not paired, because the suites differ" in said


def test_the_front_is_shown_and_exported_by_its_knee_or_by_weights(folder: Path) -> None:
    database = open_database(f"sqlite:///{folder}/s.db", create=False)
    records = open_study(database, "front")
    rows = load_trials(records)
    database.close()
    sharpest = max(rows, key=lambda row: row.objectives["sharpness"])
    assert "knee" in run(folder, "study", "show", "front")
    said = run(folder, "export", "front", "--weights", "sharpness=1", "--recipe", "sharp.yaml")
    assert f"trial {sharpest.number}" in said
    assert (folder / "sharp.yaml").is_file()
    assert "by its knee" in run(folder, "export", "front", "--recipe", "knee.yaml")


def test_without_plotly_there_are_no_figures_and_the_log_says_so_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    database = open_database(f"sqlite:///{folder}/s.db", create=False)
    records = open_study(database, "front")
    _can_draw.cache_clear()
    try:
        assert [save_figures(records, Objective.of_study(records.study)) for _ in range(2)] == [0, 0]
    finally:
        _can_draw.cache_clear()
        database.close()
    (message,) = caplog.messages
    assert "plotly is not installed" in message


def test_the_dashboard_gets_its_figures_and_writes_over_old_ones(folder: Path) -> None:
    database = open_database(f"sqlite:///{folder}/s.db", create=False)
    records, few = open_study(database, "front"), open_study(database, "other")
    assert save_figures(records, Objective.of_study(records.study)) == 6
    assert save_figures(records, Objective.of_study(records.study)) == 6
    assert save_figures(few, Objective.of_study(few.study)) == 0
    number = optuna.load_study(study_name="front", storage=database.storage)._study_id
    kept = get_plotly_graph_objects(database.storage.get_study_system_attrs(number))
    assert len(kept) == 6
    samples = load_samples(records, load_trials(records))
    progress = json.loads(kept["mergetune-0-1"])
    trials = [trace for trace in progress["data"] if "hovertext" in trace and trace["name"] != "best"]
    assert sum(len(trace["hovertext"]) for trace in trials) == len(samples)
    database.close()
