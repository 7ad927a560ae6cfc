"""Studies that go from coarse to fine and end by themselves: on the demo's checkpoints and a real SQLite file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo_study import ShortStudy, begin, reopen

from optimizer.cli.views.results import print_study
from optimizer.search.depth.ties import split_of
from optimizer.search.stopping import expectations, stored_end
from studies.errors import SpecError
from studies.records import optuna_studies, stored_studies, stored_trials

SETTINGS = {
    "space": {"granularity": "auto"},
    "probes": {"uniform": [0.5], "profiles": 2},
    "sampler": {"name": "depth", "options": {"n_startup_trials": 4, "candidates": 64}},
    "budget": {"trials": 20, "patience": 2},
}


def origins(short: ShortStudy) -> list[str]:
    return [str(trial.origin) for trial in stored_trials.load_trials(short.records)]


def params(short: ShortStudy) -> list[dict[str, float]]:
    return [row.params for row in optuna_studies.optuna_trials(short.records)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    short = begin(tmp_path_factory.mktemp("ended"), SETTINGS)
    short.run()
    return short


def test_a_study_ends_when_too_little_is_expected_and_says_why(
    ended: ShortStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = stored_trials.load_trials(ended.records)
    trials = optuna_studies.optuna_trials(ended.records)
    last = expectations(trials)[-2:]
    assert len(rows) < 20
    assert sum(row.improvement for row in last) < last[-1].noise
    for count in range(len(trials)):  # and no earlier
        before = expectations(trials[:count])[-2:]
        assert len(before) < 2 or sum(row.improvement for row in before) >= before[-1].noise
    end = stored_end(ended.records, rows)
    assert end is not None
    assert end.key == "patience"
    print_study(ended.records, every_trial=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"ended: {end.reason}" in shown
    assert "searched as a whole" in shown or "split into blocks at trial" in shown


def test_an_interrupted_study_comes_to_the_same_end(ended: ShortStudy, tmp_path: Path) -> None:
    begin(tmp_path, SETTINGS).run(stop_after=7)
    again = reopen(tmp_path)
    again.run()
    assert params(again) == params(ended)
    assert origins(again) == origins(ended)
    again.run()  # a further worker has nothing to do
    assert origins(again) == origins(ended)


def test_with_another_budget_it_goes_on(ended: ShortStudy) -> None:
    before = origins(ended)
    budget = ended.study.spec.budget.model_copy(update={"trials": len(before) + 1, "patience": None})
    stored_studies.set_budget(ended.records, budget)
    more = reopen(Path(ended.artifacts.location).parent)
    more.run()
    assert origins(more) == [*before, "depth"]
    end = stored_end(more.records, stored_trials.load_trials(more.records))
    assert end is not None
    assert end.key == "trials"


def test_each_trials_note_tells_what_is_split(ended: ShortStudy) -> None:
    trials = optuna_studies.optuna_trials(ended.records)
    assert [split_of(trial) is not None for trial in trials] == [origin == "depth" for origin in origins(ended)]
    storage = ended.database.storage
    study_id = storage.get_study_id_from_name(ended.study.name)
    noted = json.dumps(storage.get_study_system_attrs(study_id))
    assert noted.count("Search: ") == origins(ended).count("depth")


def test_a_budget_that_cannot_end_the_study_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    short = begin(tmp_path, {"sampler": {"name": "random"}})
    budget = short.study.spec.budget.model_copy(update={"patience": 3})
    with pytest.raises(SpecError, match="patience needs a sampler that predicts improvement"):
        stored_studies.set_budget(short.records, budget)
    assert stored_studies.open_study(short.database, "short").study.spec.budget.patience is None
