"""Wherever a best trial is named, it is said if the final found no merge that is surely better than a parent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, caller, enter
from demo_study import SMALL, begin
from optuna_dashboard import get_note
from slow_cases import first_fast
from stored_study import store_study

from optimizer.dashboard.study_page import describe_study
from optimizer.sheets.best import save_best_sheet
from optimizer.trial.objective import SINGLE
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.finals import Final, Finalist, store_final
from studies.records.optuna_studies import optuna_study
from studies.records.origins import Origin
from studies.records.stored_renders import load_renders
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials
from studies.records.values import Gain

TRIALS = 12
OBJECTIVE: dict[str, Any] = {"objective": {"sharpness": {"weight": 1}}}
PARENT_BETTER = "no merge beats parent B: parent B is the better model"
FOUND = {  # what the final found of its choice -> what is said of it
    "worse": (Gain(value=-0.4, low=-0.6, high=-0.2, parent="B"), PARENT_BETTER),
    "equal": (Gain(value=0.0, low=0.0, high=0.0, parent="B"), PARENT_BETTER),
    "unsure": (Gain(value=0.1, low=-0.1, high=0.3, parent="A"), "trial 5's gain over parent A includes 0"),
    "failed": (None, "every merge failed in the final"),
}


def scores(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    sharpness = tuple(1 - (params["IN04"] - 0.6) ** 2 + noise for noise in (0.0, 0.1, -0.1, 0.05))
    return {"sharpness": sharpness, "contrast": sharpness}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the studies `one` and `two`, without a final."""
    file = tmp_path_factory.mktemp("studies") / "mergetune.db"
    database = open_database(f"sqlite:///{file}")
    store_study(database, "one", scores, trials=TRIALS, **OBJECTIVE)
    store_study(database, "two", scores, trials=TRIALS, seed=3, **OBJECTIVE)
    database.close()
    return file


def hold(folder: Path, gain: Gain | None, complete_trials: int = TRIALS) -> None:
    """Give study `one` a final that chose trial 5 with this gain, or in which it failed."""
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    records = open_study(database, "one")
    parents = tuple(
        Finalist(number=number, origin=Origin("parent", letter), objectives={SINGLE: 1.0})
        for number, letter in enumerate("AB")
    )
    candidate = Finalist(
        number=5,
        origin=Origin("sampler", "random"),
        objectives={} if gain is None else {SINGLE: 1.0},
        held_out={} if gain is None else dict.fromkeys((SINGLE, "sharpness", "contrast"), gain),
        chosen=gain is not None,
        failure="degenerate: black images" if gain is None else None,
    )
    store_final(records, Final(suite_digest="0" * 64, complete_trials=complete_trials, finalists=(*parents, candidate)))
    database.close()


@pytest.fixture
def call(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    shutil.copy(studies, tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    return caller(monkeypatch, capsys)


COMMANDS = (
    ("export", "one", "--force", "--recipe", "best.yaml"),
    ("export", "one", "--trial", "7", "--recipe", "best.yaml"),
    ("study", "list"),
    ("study", "importance", "one"),
    ("study", "compare", "two", "one"),
)
SLOW = "importance"  # which is computed anew each time


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        pytest.param(words, found, marks=pytest.mark.slow if SLOW in words else ())
        for words in COMMANDS
        for found in FOUND
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_command_that_names_it_says_so(
    tmp_path: Path, call: Call, arguments: tuple[str, ...], found: str
) -> None:
    gain, said = FOUND[found]
    hold(tmp_path, gain)
    if "--force" in arguments and said == PARENT_BETTER:  # of the merge itself, which is exported
        said = "trial 5 lost to parent B in the final"
    assert said in " ".join(call(*arguments, code=0).out.split())


def test_the_results_call_it_the_best_merge(tmp_path: Path, call: Call) -> None:
    hold(tmp_path, FOUND["worse"][0])
    shown = " ".join(call("study", "show", "one", code=0).out.split())
    assert "best merge: " in shown
    assert "best observed: " in shown
    assert "best (the final's choice): parent B" in shown
    assert PARENT_BETTER.removeprefix("no merge beats parent B: ") in shown
    assert json.loads(call("study", "importance", "one", "--json", code=0).out)["caveat"].endswith(PARENT_BETTER)


def test_an_outdated_final_is_still_heard(tmp_path: Path, call: Call) -> None:
    hold(tmp_path, FOUND["worse"][0], complete_trials=TRIALS - 1)
    out = call("export", "one", "--recipe", "best.yaml", code=0).out
    assert f"{PARENT_BETTER} (more trials have finished since)" in out


@pytest.mark.slow
def test_a_sure_gain_and_a_parent_by_its_number_need_no_caveat(tmp_path: Path, call: Call) -> None:
    hold(tmp_path, Gain(value=0.4, low=0.2, high=0.6, parent="B"))
    for arguments in (("export", "one", "--recipe", "best.yaml"), ("study", "list"), ("study", "importance", "one")):
        assert "final no merge" not in call(*arguments, code=0).out
    assert json.loads(call("study", "importance", "one", "--json", code=0).out)["caveat"] is None


def test_a_parent_is_exported_without_it(tmp_path: Path, call: Call) -> None:
    hold(tmp_path, FOUND["worse"][0])
    assert "in the final" not in call("export", "one", "--trial", "1", "--recipe", "b.yaml", code=0).out


@pytest.mark.parametrize("found", first_fast(1, ["worse", "failed", "equal", "unsure"]))
def test_the_note_of_the_study_in_the_dashboard_says_so(tmp_path: Path, call: Call, found: str) -> None:
    gain, said = FOUND[found]
    hold(tmp_path, gain)
    assert said in study_note(tmp_path)


@pytest.mark.slow
def test_a_note_loses_what_no_longer_holds(tmp_path: Path, call: Call) -> None:
    hold(tmp_path, FOUND["unsure"][0], complete_trials=TRIALS - 1)
    assert "(more trials have finished since)" in study_note(tmp_path)
    hold(tmp_path, Gain(value=0.4, low=0.2, high=0.6, parent="B"))
    assert "more trials have finished since" not in study_note(tmp_path)


def study_note(folder: Path) -> str:
    """The note that the dashboard shows of study `one`, after what a dashboard does as it starts."""
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    try:
        records = open_study(database, "one")
        describe_study(records, Artifacts.beside(database.url))
        return str(get_note(optuna_study(records)))
    finally:
        database.close()


@pytest.mark.slow
def test_the_best_observed_trial_is_drawn_where_the_renders_of_the_finals_choice_are_not_stored(tmp_path: Path) -> None:
    short = begin(tmp_path, {**SMALL, "budget": {"trials": 5}})
    short.run()
    merges = [trial for trial in load_trials(short.records)[2:] if trial.state == "complete"]
    stored = [trial for trial in merges if all(render.file for render in load_renders(short.records, trial))]
    chosen = next(trial for trial in merges if trial not in stored)
    gain = Gain(value=0.4, low=0.2, high=0.6, parent="B")
    finalist = Finalist(number=chosen.number, origin=chosen.origin, held_out={SINGLE: gain}, chosen=True)
    store_final(short.records, Final(suite_digest="0" * 64, complete_trials=5, finalists=(finalist,)))
    picture = save_best_sheet(short.records, short.artifacts)
    assert picture is not None
    assert Path(picture).is_file()
    short.artifacts.store.remove(str(load_renders(short.records, stored[0])[0].file))
    assert save_best_sheet(short.records, short.artifacts) is None, "no picture of the parents alone"
