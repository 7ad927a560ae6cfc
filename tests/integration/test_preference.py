"""Votes as an objective: what they make of stored trials, of the sampler's view, and of a worker's pace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from demo_study import SMALL, Recorder, begin
from optuna.trial import TrialState
from reported_study import ReportedStudy, begin_reported, store_pictures

from optimizer.observe.events import VotesAwaited
from optimizer.outcome.rescore import require_rescorable
from optimizer.personal.comparisons import load_comparisons
from optimizer.preference import values as preference_values
from optimizer.preference.model import Preference, fit
from optimizer.preference.search import AHEAD, as_voted, lacks_votes
from optimizer.preference.values import refresh_preference
from optimizer.trial.best import load_best
from optimizer.trial.objective import SINGLE
from optimizer.trial.stored_scores import trial_scores
from optimizer.voting.ballots import Ballots
from optimizer.voting.preferred_trials import load_preferred_trials
from optimizer.voting.rated_renders import RatedRenders
from optimizer.work.trial_loop import TrialLoop
from studies.errors import RescoreError, StudyMissingError
from studies.records import tables
from studies.records.judgements import load_judgements
from studies.records.optuna_studies import optuna_study
from studies.records.ratings import load_ratings, load_shown_render, show_render, store_rating
from studies.records.stored_trials import load_trials, store_gains
from studies.records.study_records import StudyRecords
from studies.records.votes import cast_vote, load_votes, show_pair
from studies.records.whole_studies import clone_study, delete_study, rename_study

VOTED: dict[str, Any] = {"render": {"keep": "all"}, "final": {"top": 0}}
ALONE = VOTED | {"scorers": {"preference": {"kind": "preference"}}}
BESIDE = VOTED | {"scorers": {"preference": {"kind": "preference"}, "sharpness": {"kind": "sharpness"}}}


def sharpness(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    mean = float(np.mean(list(params.values())))
    return {"sharpness": (mean, mean + 1, mean, mean)}


def voted_study(folder: Path, changes: Mapping[str, Any], trials: int = 6) -> ReportedStudy:
    """Store a study whose trials have the score of the average trial, as a worker stores them."""

    def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        return {"preference": (0.0,) * 4} | sharpness(params)

    study = begin_reported(folder, "v", score, trials=trials, **changes)
    with study.records.database.write() as connection:
        own = tables.scores.c.scorer == "preference"
        connection.execute(tables.scores.delete().where(own, tables.scores.c.item > 0))
        connection.execute(tables.scores.update().where(own).values(item=None))
        if "sharpness" not in changes["scorers"]:
            connection.execute(tables.scores.delete().where(tables.scores.c.scorer == "sharpness"))
    return study


def vote(records: StudyRecords, better: int, worse: int, times: int = 1) -> None:
    for time in range(times):
        cast_vote(records, show_pair(records, "ann", time % 4, better, worse).token, "left")


def test_votes_become_the_objective_with_an_interval_and_a_standard_error(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    vote(study.records, 4, 1, 9)
    vote(study.records, 1, 0, 9)
    refresh_preference(study.records)
    trials, preferred = study.trials(), {row.number: row for row in load_preferred_trials(study.records).rows}
    factor = 1 / study.records.study.spec.infos["preference"].unit
    best = load_best(study.records, study.objective)
    assert best is not None
    assert best.trial.number == 4
    gain, lead = trials[4].gains["preference"], preferred[4].lead
    assert lead is not None
    assert gain.parent == "B"
    assert gain.basis == "votes"
    assert [gain.value, gain.low, gain.high] == pytest.approx([lead.value, lead.low, lead.high], rel=1e-3)
    assert trials[4].gains[SINGLE].low == pytest.approx(factor * lead.low, rel=1e-3)
    assert trials[1].gains["preference"].value == trials[1].gains["preference"].high == 0
    for trial in trials:
        (value,) = trial.objectives.values()
        assert value == pytest.approx(factor * trial_scores(study.records, trial).means["preference"])
        assert trial.errors["preference"] > 0
    assert len({tuple(trial.objectives.values()) for trial in trials}) == 6  # those without votes follow their ratios


def test_ratings_count_as_votes_between_renders_that_a_person_rated_one_after_the_other(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    store_pictures(study, range(6), size=(8, 8))
    ratings = {0: 3, 1: 4, 2: 5, 3: 5, 4: 9, 5: 2}
    page = RatedRenders(study.records, study.artifacts, np.random.default_rng(0))
    for _ in range(24):
        question = page.ask("ann")
        assert question is not None
        shown = load_shown_render(study.records, question.token)
        assert shown is not None
        assert page.answer(question.token, str(ratings[shown.number]))
    assert len(load_judgements(study.records)) == 24 - 4  # the first one of each item is compared with none
    best = load_best(study.records, study.objective)
    assert best is not None
    assert best.trial.number == 4
    values = [trial.objectives[SINGLE] for trial in study.trials()]
    assert values[4] == max(values)
    assert values[5] == min(values)
    lead = next(row.lead for row in load_preferred_trials(study.records).rows if row.number == 4)
    assert lead is not None
    assert study.trials()[4].gains["preference"].value == pytest.approx(lead.value, rel=1e-3)
    page.undo("ann")
    assert [trial.objectives[SINGLE] for trial in study.trials()] != values


def test_a_page_that_is_open_while_its_study_gets_another_name_goes_on_with_it(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    store_pictures(study, range(6), size=(8, 8))
    page = Ballots(study.records, study.artifacts, np.random.default_rng(0))
    renamed = rename_study(study.records, study.artifacts, "other")
    stranger = begin_reported(tmp_path, "v", sharpness, trials=6, scorers={"sharpness": None})
    before = [trial.values for trial in optuna_study(stranger.records).trials]
    for _ in range(6):
        question = page.ask("ann")
        assert question is not None
        assert page.answer(question.token, "left")
    assert [trial.values for trial in optuna_study(stranger.records).trials] == before
    values = [list(trial.objectives.values()) for trial in load_trials(renamed)]
    assert [trial.values for trial in optuna_study(renamed).trials] == values
    assert len({value for (value,) in values}) > 1


def test_a_page_whose_study_was_deleted_votes_on_no_other(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    store_pictures(study, range(6), size=(8, 8))
    page = Ballots(study.records, study.artifacts, np.random.default_rng(0))
    question = page.ask("ann")
    assert question is not None
    delete_study(study.records, study.artifacts)
    again = voted_study(tmp_path, ALONE)
    assert again.records.study.id == study.records.study.id  # as SQLite has it
    assert not page.answer(question.token, "left")
    with pytest.raises(StudyMissingError, match="was deleted meanwhile"):
        page.ask("ann")
    with pytest.raises(StudyMissingError):
        page.undo("ann")
    with pytest.raises(StudyMissingError):
        refresh_preference(study.records)
    assert load_votes(again.records) == []


def test_what_a_worker_stored_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = voted_study(tmp_path, BESIDE)
    vote(study.records, 4, 1, 3)
    expected = study.trials()[5].gains["sharpness"]
    assert expected.low is not None
    changed = replace(expected, low=expected.low - 1)

    def a_worker_stores(*arguments: Any) -> Preference:
        monkeypatch.setattr(preference_values, "fit", fit)
        trial = study.trials()[5]
        store_gains(study.records, trial, dict(trial.gains) | {"sharpness": changed}, dict(trial.errors))
        return fit(*arguments)

    monkeypatch.setattr(preference_values, "fit", a_worker_stores)
    refresh_preference(study.records)
    assert study.trials()[5].gains["sharpness"] == changed
    assert study.trials()[5].gains["preference"].basis == "votes"


def test_a_clone_goes_on_with_the_votes(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    vote(study.records, 4, 1, 5)
    store_rating(study.records, show_render(study.records, "bob", 0, 2).token, 7)
    show_pair(study.records, "ann", 0, 2, 3)  # nobody answers
    refresh_preference(study.records)
    clone = clone_study(study.records, study.artifacts, "clone", trials=True)
    refresh_preference(clone)
    assert [(each.person, each.left, each.right, each.verdict) for each in load_votes(clone)] == [
        ("ann", 4, 1, "left")
    ] * 5
    assert [(each.number, each.rating) for each in load_ratings(clone)] == [(2, 7)]
    assert [trial.objectives for trial in load_trials(clone)] == [trial.objectives for trial in study.trials()]
    assert len(load_votes(study.records)) == 5
    store_pictures(study, range(6), size=(8, 8))
    assert len(load_comparisons(study.records.database, study.artifacts).comparisons) == 5  # each once
    assert load_votes(clone_study(study.records, study.artifacts, "empty", trials=False)) == []


def test_a_study_with_votes_is_not_rescored(tmp_path: Path) -> None:
    spec = voted_study(tmp_path, ALONE).records.study.spec
    with pytest.raises(RescoreError, match="scorer preference depends on people's votes"):
        require_rescorable(spec, "v")


def test_what_optuna_stores_is_the_value_of_now(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    vote(study.records, 4, 1, 5)
    refresh_preference(study.records)
    elsewhere = optuna.load_study(study_name="v", storage=study.records.database.url)
    assert [trial.values for trial in elsewhere.trials] == [list(each.objectives.values()) for each in study.trials()]


def test_votes_at_random_move_nothing_far(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    for one, other in ((0, 1), (2, 3), (4, 5), (0, 4), (1, 5), (2, 4)):
        vote(study.records, one, other, 4)
        vote(study.records, other, one, 4)
    refresh_preference(study.records)
    for trial in study.trials():
        gain = trial.gains["preference"]
        assert gain.low is not None
        assert gain.high is not None
        assert gain.low <= 0 <= gain.high


def test_beside_other_scores_both_variances_are_added(tmp_path: Path) -> None:
    study = voted_study(tmp_path, BESIDE)
    alone = {trial.number: trial.gains["sharpness"] for trial in study.trials()}
    vote(study.records, 4, 1, 9)
    refresh_preference(study.records)
    trial = study.trials()[4]
    means, infos = trial_scores(study.records, trial).means, study.records.study.spec.infos
    expected = sum(means[name] / infos[name].unit for name in ("preference", "sharpness"))
    assert trial.objectives[SINGLE] == pytest.approx(expected)
    assert trial.gains["sharpness"] == alone[4]
    gain, of_votes = trial.gains[SINGLE], trial.gains["preference"]
    assert gain.basis == "prompts"
    assert gain.low is not None
    assert of_votes.low is not None
    factor = 1 / infos["preference"].unit
    assert gain.value - gain.low > factor * (of_votes.value - of_votes.low)


def test_of_two_objectives_one_may_be_votes(tmp_path: Path) -> None:
    study = voted_study(tmp_path, BESIDE | {"objectives": ["sharpness", "preference"]})
    before = [trial.objectives["sharpness"] for trial in study.trials()]
    vote(study.records, 4, 1, 9)
    refresh_preference(study.records)
    trials = study.trials()
    assert [trial.objectives["sharpness"] for trial in trials] == before
    assert max(trials, key=lambda trial: trial.objectives["preference"]).number == 4
    seen = as_voted(study.records, optuna_study(study.records))
    assert [trial.values for trial in seen.trials] == [list(trial.objectives.values()) for trial in trials]


def test_the_sampler_sees_trials_without_votes_in_progress(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    vote(study.records, 4, 1, 5)
    refresh_preference(study.records)
    seen = as_voted(study.records, optuna_study(study.records)).trials
    complete = [trial.number for trial in seen if trial.state == TrialState.COMPLETE]
    assert complete == [1, 4]
    assert {trial.state for trial in seen} == {TrialState.COMPLETE, TrialState.RUNNING}
    assert seen[4].values == list(study.trials()[4].objectives.values())


@pytest.mark.parametrize("gone", [(4,), (0, 1)])
def test_votes_on_trials_that_were_deleted_count_for_nobody(tmp_path: Path, gone: tuple[int, ...]) -> None:
    study = voted_study(tmp_path, ALONE)
    vote(study.records, 4, 1, 5)
    vote(study.records, 4, 0, 5)
    with study.records.database.write() as connection:
        for trial in study.trials():
            if trial.number in gone:
                for table in (tables.renders, tables.scores):
                    connection.execute(table.delete().where(table.c.trial_id == trial.id))
                connection.execute(tables.trials.delete().where(tables.trials.c.id == trial.id))
    refresh_preference(study.records)
    assert {value for trial in study.trials() for value in trial.objectives.values()} == {0.0}
    seen = as_voted(study.records, optuna_study(study.records))
    assert len(seen.trials) == 6


def test_the_search_waits_for_votes_only_where_they_are_all_it_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = voted_study(tmp_path / "a", ALONE, trials=2 + AHEAD)
    assert lacks_votes(alone.records, alone.trials())
    vote(alone.records, 5, 0)
    assert not lacks_votes(alone.records, alone.trials())
    beside = voted_study(tmp_path / "b", BESIDE, trials=2 + AHEAD)
    assert not lacks_votes(beside.records, beside.trials())


def test_a_vote_on_the_page_changes_what_is_best_and_taking_it_back_changes_it_again(tmp_path: Path) -> None:
    study = voted_study(tmp_path, ALONE)
    store_pictures(study, (0, 1, 4))
    ballots = Ballots(study.records, study.artifacts, np.random.default_rng(0))
    pair = ballots.ask("ann")
    assert pair is not None
    before = [trial.objectives for trial in study.trials()]
    assert ballots.answer(pair.token, "left")
    after = [trial.objectives for trial in study.trials()]
    assert after != before
    ballots.undo("ann")
    assert {value for trial in study.trials() for value in trial.objectives.values()} == {0.0}


def test_a_worker_explores_then_waits_for_people_and_goes_on_as_they_vote(tmp_path: Path) -> None:
    changes = (
        dict(SMALL)
        | VOTED
        | {
            "scorers": {"preference": None},
            "objective": None,
            "sampler": {"name": "depth"},
            "probes": {"uniform": [], "profiles": 0},
            "budget": {"trials": 2 + AHEAD + 2},
            "render": {"degenerate_limit": 8, "keep": "all"},
        }
    )
    short = begin(tmp_path, changes)
    recorder = short.run(stop_after=2 + AHEAD)
    assert lacks_votes(short.records, load_trials(short.records))
    ballots = Ballots(short.records, short.artifacts, np.random.default_rng(0))

    def people_vote() -> bool:
        """Vote once the worker has said that it waits; asked by the worker between its looks."""
        if again.of(VotesAwaited):
            for _ in range(6):
                pair = ballots.ask("ann")
                assert pair is not None
                ballots.answer(pair.token, "left")
        return False

    again = Recorder()
    assert not recorder.of(VotesAwaited)
    TrialLoop(short.records, short.runtime, short.artifacts, again, people_vote).run()
    assert [event.name for event in again.of(VotesAwaited)] == ["short"]
    assert len(load_trials(short.records)) == 2 + AHEAD + 2
    assert all(trial.gains["preference"].basis == "votes" for trial in load_trials(short.records))
