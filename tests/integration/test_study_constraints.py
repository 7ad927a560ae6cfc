"""A whole short study with constraints on the demo's checkpoints, in real SQLite: what is stored, told and chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import Call
from demo_study import ShortStudy, begin, reopen, write_spec
from optuna.trial import Trial
from optuna_dashboard import get_note

from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.runtime.plan import make_plan
from optimizer.search.shortlist import by_value
from optimizer.trial.best import load_best
from optimizer.trial.objective import SINGLE
from optimizer.trial.stored_scores import trial_scores
from studies.records.finals import load_final, store_final
from studies.records.stored_trials import load_trials
from studies.records.whole_studies import clone_study
from studies.spec.study import load_spec

SMALL: dict[str, Any] = {
    "scorers": {"sharpness": None, "contrast": None},
    "objective": {"sharpness": None},
    "probes": {"uniform": [0.25, 0.5, 0.75], "profiles": 0},
    "budget": {"trials": 5},
    "sampler": {"name": "tpe"},
    "final": {"top": 2},
}
SILENT = FinalProgress(started=lambda *_: None, rendered=lambda _: None)


def contrasts(short: ShortStudy) -> list[float]:
    return [trial_scores(short.records, trial).means["contrast"] for trial in load_trials(short.records)]


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """The same study without constraints."""
    study = begin(tmp_path_factory.mktemp("free"), SMALL)
    study.run()
    return study


@pytest.fixture(scope="module")
def bound(free: ShortStudy) -> float:
    """A contrast that the sharpest of the first five trials does not have, and another one has."""
    trials, values = load_trials(free.records), contrasts(free)
    sharpest = max(trials, key=lambda trial: trial.objectives[SINGLE]).number
    above, below = max(values), values[sharpest]
    assert below < above
    return (below + above) / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bounded")


@pytest.fixture(scope="module")
def short(folder: Path, bound: float) -> ShortStudy:
    study = begin(folder, SMALL | {"constraints": {"contrast": {"min": bound}}})
    study.run(stop_after=3)
    study = reopen(folder)  # what is constrained is in the database alone
    study.run()
    final = hold_final(
        study.runtime, load_trials(study.records), by_value(study.runtime.objective), SILENT, lambda *_: None
    )
    store_final(study.records, final)
    return study


def test_every_trial_stores_the_mean_that_is_bounded_and_optuna_how_far_it_is_outside(
    short: ShortStudy, bound: float
) -> None:
    told = optuna.load_study(study_name="short", storage=short.database.storage)
    values = contrasts(short)
    assert [trial.constrained for trial in load_trials(short.records)] == [{"contrast": value} for value in values]
    unit = short.runtime.infos["contrast"].unit
    for trial, value in zip(told.trials, values, strict=True):
        assert trial.constraints == pytest.approx({"contrast min": (bound - value) / unit})


def test_the_best_keeps_the_constraint_though_a_sharper_trial_does_not(short: ShortStudy, bound: float) -> None:
    best = load_best(short.records, short.runtime.objective)
    assert best is not None
    values, trials = contrasts(short), load_trials(short.records)
    assert best.trial.constrained["contrast"] >= bound
    assert any(
        trial.objectives[SINGLE] > best.trial.objectives[SINGLE] and values[trial.number] < bound for trial in trials
    )


def test_gains_are_over_a_parent_that_keeps_it_if_one_does(short: ShortStudy, bound: float) -> None:
    values = contrasts(short)
    kept = [letter for letter, value in zip("AB", values, strict=False) if value >= bound]
    for trial in load_trials(short.records):
        assert trial.gains[SINGLE].parent in (kept or "AB")


def test_candidates_of_the_final_keep_it_and_the_held_out_mean_has_an_interval(short: ShortStudy, bound: float) -> None:
    final = load_final(short.records)
    assert final is not None
    values = contrasts(short)
    assert final.candidates
    for candidate in final.candidates:
        assert values[candidate.number] >= bound
        mean = candidate.constrained["contrast"]
        assert mean.value == pytest.approx(sum(candidate.image_scores["contrast"]) / 8)
        assert mean.low is not None
        assert mean.high is not None
        assert mean.low < mean.value < mean.high
    assert final.winner is None or final.winner.constrained["contrast"].value >= bound


def test_a_clone_keeps_what_optuna_knows_of_constraints(short: ShortStudy) -> None:
    clone = clone_study(short.records, short.artifacts, "clone", trials=True)
    both = [optuna.load_study(study_name=name, storage=short.database.storage) for name in ("short", "clone")]
    before, after = ([trial.constraints for trial in study.trials] for study in both)
    assert before == after
    assert [each.constrained for each in load_trials(clone)] == [
        each.constrained for each in load_trials(short.records)
    ]


def test_people_are_told_in_plain_words(short: ShortStudy, folder: Path, bound: float, call: Call) -> None:
    url = f"sqlite:///{folder}/study.db"
    out = " ".join(call("study", "show", "short", "--trials", "--storage", url, code=0).out.split())
    values = contrasts(short)
    kept = sum(value >= bound for value in values)
    assert f"constraints: contrast at least {bound:g}; {kept} of 5 trials keep them" in out
    facts = json.loads(call("study", "show", "short", "--json", "--storage", url, code=0).out)
    assert facts["constraints"] == {"contrast": {"min": bound, "max": None}}
    assert [each["feasible"] for each in facts["trials"]] == [value >= bound for value in values]
    broken = next(number for number, value in enumerate(values) if value < bound)
    told = optuna.load_study(study_name="short", storage=short.database.storage)
    trial = Trial(told, told.trials[broken]._trial_id)
    assert f"**Breaks the constraints**: contrast {values[broken]:.4g} (at least {bound:g})" in get_note(trial)


@pytest.mark.parametrize("name", ["cmaes", "qmc", "random"])
def test_a_sampler_that_does_not_look_at_constraints_is_told_of_before_the_study_starts(
    tmp_path: Path, name: str
) -> None:
    changes = SMALL | {"sampler": {"name": name}, "constraints": {"contrast": {"min": 0.1}}}
    notes = make_plan(load_spec(write_spec(tmp_path / "spec.yaml", **changes))).notes
    assert [note for note in notes if note.startswith(f"constraints: sampler {name} proposes")]


@pytest.mark.parametrize("name", ["depth", "gp", "tpe", "nsgaii"])
def test_a_sampler_that_does_is_not(tmp_path: Path, name: str) -> None:
    changes = SMALL | {"sampler": {"name": name}, "constraints": {"contrast": {"min": 0.1}}}
    notes = make_plan(load_spec(write_spec(tmp_path / "spec.yaml", **changes))).notes
    assert not [note for note in notes if note.startswith("constraints")]


@pytest.mark.parametrize("kept", [True, False], ids=["kept by a parent", "broken by all"])
def test_a_race_stops_a_trial_that_surely_breaks_them_and_tells_the_search_an_estimate(
    tmp_path: Path, free: ShortStudy, *, kept: bool
) -> None:
    one, other = sorted(contrasts(free)[:2])  # of the parents; a merge halfway has more than both
    bound = one + (other - one) / 20 if kept else 0.01
    changes = SMALL | {
        "constraints": {"contrast": {"max": bound}},
        "racing": {"batch": 4, "confidence": 0.8},
        "probes": {"uniform": [0.5], "profiles": 0},
        "budget": {"trials": 3},
    }
    short = begin(tmp_path, changes)
    short.run()
    parents, trial = load_trials(short.records)[:2], load_trials(short.records)[2]
    assert any(parent.constrained["contrast"] <= bound for parent in parents) == kept
    assert trial.rendered == 4
    told = optuna.load_study(study_name="short", storage=short.database.storage).trials[2]
    assert trial.constrained["contrast"] > bound
    assert told.constraints is not None
    unit = short.runtime.infos["contrast"].unit
    assert told.constraints == pytest.approx({"contrast max": (trial.constrained["contrast"] - bound) / unit})
