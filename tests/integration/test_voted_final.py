"""A final that asks people for votes, on real renders in real SQLite: what it chooses, and what it says meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call
from demo_study import SMALL, Recorder, ShortStudy, begin, short_spec
from PIL import Image

from optimizer.outcome.final import FinalProgress
from optimizer.outcome.finishing import Finish, final_is_due, finish_study
from optimizer.outcome.in_words import final_lines
from optimizer.outcome.next_commands import command_at_the_end
from optimizer.outcome.voted_final import refresh_final
from optimizer.personal.comparisons import load_comparisons
from optimizer.runtime.setup import Runtime
from optimizer.system.retry import Retry
from optimizer.trial.best import load_best
from optimizer.trial.judgement import AWAITS_VOTES
from optimizer.trial.missing_final import votes_missing
from optimizer.trial.objective import SINGLE
from optimizer.voting.ballots import Ballots
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.finals import Final, load_final
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials
from studies.records.values import Gain
from studies.records.votes import cast_vote, load_pair, load_votes, show_pair, take_back

TOP = 2
CHANGES: dict[str, Any] = dict(SMALL) | {
    "scorers": {"preference": None, "sharpness": None},
    "objective": {"preference": None},
    "probes": {"uniform": [0.25, 0.5, 0.75], "profiles": 0},
    "budget": {"trials": 5},
    "render": {"degenerate_limit": 8, "keep": "all"},
    "final": {"top": TOP, "seeds": [5, 6, 7]},
}


def hold(short: ShortStudy) -> Finish:
    progress = FinalProgress(started=lambda *_: None, rendered=lambda _: None)
    return finish_study(short.records, short.runtime, short.artifacts, Recorder(), Retry(), progress)


def vote_in_search(short: ShortStudy) -> None:
    # People's taste in the search: trial 3 is the best of all, trial 2 the second.
    for better, worse in ((3, 2), (3, 4), (2, 4), (3, 0), (2, 1)):
        for time in range(6):
            cast_vote(short.records, show_pair(short.records, "ann", time % 2, better, worse).token, "left")
    Ballots(short.records, short.artifacts)._refresh()


def finished(folder: Path, **changes: Any) -> ShortStudy:
    short = begin(folder, CHANGES | changes, shared=True)
    short.run()
    vote_in_search(short)
    hold(short)
    return short


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Runtime]:
    """A folder with a study whose final nobody has voted on, and the study's runtime."""
    folder = tmp_path_factory.mktemp("held")
    study = finished(folder)
    study.database.close()
    return folder, study.runtime


@pytest.fixture
def short(held: tuple[Path, Runtime], tmp_path: Path) -> Iterator[ShortStudy]:
    """A copy of that study."""
    folder, runtime = held
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    database = open_database(f"sqlite:///{tmp_path}/study.db", create=False)
    artifacts = Artifacts.beside(database.url, tmp_path / "artifacts")
    yield ShortStudy(open_study(database, "short"), runtime, artifacts)
    database.close()


def final_of(short: ShortStudy) -> Final:
    final = load_final(short.records)
    assert final is not None
    return final


def vote(short: ShortStudy, better: int, worse: int, times: int) -> None:
    for time in range(times):
        pair = show_pair(short.records, "bob", time % 3, better, worse, held_out=True)
        assert Ballots(short.records, short.artifacts).answer(pair.token, "left")


def test_no_final_is_held_before_people_have_voted_on_as_many_merges_as_take_part(tmp_path: Path, call: Call) -> None:
    short = begin(tmp_path, CHANGES, shared=True)
    short.run()
    trials = load_trials(short.records)
    assert votes_missing(short.records, trials) == TOP
    assert not final_is_due(short.records)
    command = command_at_the_end(short.records)
    assert command is not None
    assert command.startswith('mergetune study vote "short"')
    said = call("study", "finish", "short", "--storage", short.database.url, code=2).err
    assert "they have to vote on 2 more merges first: `mergetune study vote" in " ".join(said.split())
    cast_vote(short.records, show_pair(short.records, "ann", 0, 3, 1).token, "left")
    assert not final_is_due(short.records)
    cast_vote(short.records, show_pair(short.records, "ann", 0, 3, 4).token, "left")
    assert final_is_due(short.records)
    command = command_at_the_end(short.records)
    assert command is not None
    assert command.startswith('mergetune study finish "short"')
    short.database.close()


def test_before_the_first_vote_nothing_is_chosen_and_the_search_names_the_best(short: ShortStudy, call: Call) -> None:
    final = final_of(short)
    assert final.awaits_votes
    assert {each.number for each in final.candidates} == {3, 2}
    assert final.winner is None
    best = load_best(short.records, short.runtime.objective)
    assert best is not None
    assert (best.trial.number, best.by, best.caveat, best.refusal) == (3, "observed", AWAITS_VOTES, None)
    assert not best.held_out
    command = command_at_the_end(short.records)
    assert command is not None
    assert command.startswith('mergetune study vote "short"')
    (line,) = final_lines(short.records, final, short.runtime.objective)
    assert line.startswith("nobody has voted on its pictures yet")
    out = " ".join(call("study", "show", "short", "--storage", short.database.url, code=0).out.split())
    assert AWAITS_VOTES in out


def test_people_are_asked_about_the_finals_pictures_and_shown_those(short: ShortStudy) -> None:
    ballots = Ballots(short.records, short.artifacts, np.random.default_rng(0))
    held_out, numbers = short.study.spec.held_out.items(), {each.number for each in final_of(short).finalists}
    against_parents = 0
    for _ in range(12):
        question = ballots.ask("bob")
        assert question is not None
        assert question.progress.endswith("in the final")
        pair = load_pair(short.records, question.token)
        assert pair is not None
        assert pair.held_out
        assert {pair.left, pair.right} <= numbers
        assert pair.item < len(held_out)
        against_parents += bool({pair.left, pair.right} & {0, 1})
        content = ballots.image(question.token, "left")
        assert content is not None
        (tmp := Path(short.artifacts.location) / "left.png").write_bytes(content)
        with Image.open(tmp) as image:
            shown = np.asarray(image)
        assert shown.shape == (64, 64, 3)
    assert 2 <= against_parents <= 10


def test_votes_on_its_pictures_decide_and_those_of_the_search_do_not(short: ShortStudy) -> None:
    searched = {trial.number: trial.objectives for trial in load_trials(short.records)}
    for worse in (3, 0, 1):
        vote(short, 2, worse, 12)
    final, objective = final_of(short), short.runtime.objective
    assert final.votes == 36
    assert final.winner is not None
    assert final.winner.number == 2
    gain, of_votes = final.winner.held_out[SINGLE], final.winner.held_out["preference"]
    assert gain.basis == of_votes.basis == "votes"
    assert of_votes.low is not None
    assert of_votes.low > 0
    assert gain.value == pytest.approx(of_votes.value / short.runtime.infos["preference"].unit)
    assert final.winner.set_scores["preference"] > final.finalists[0].set_scores["preference"]
    best = load_best(short.records, objective)
    assert best is not None
    assert (best.trial.number, best.by, best.held_out, best.caveat) == (2, "final", True, None)
    assert {trial.number: trial.objectives for trial in load_trials(short.records)} == searched
    told = final_lines(short.records, final, objective)
    (line,) = [line for line in told if line.startswith("people preferred trial 2 to parent")]
    assert "in 12 of 12 votes" in line


def test_a_score_that_nobody_votes_on_is_compared_with_the_parent_that_people_prefer(short: ShortStudy) -> None:
    for parent, other in ((0, 1), (1, 0)):
        vote(short, parent, other, 30 if other == 0 else 6)
        final = final_of(short)
        compared = {gain.parent for each in final.candidates for gain in each.held_out.values()}
        assert compared == {"AB"[parent]}
        for candidate in final.candidates:
            means = {each.number: np.mean(each.image_scores["sharpness"]) for each in final.finalists}
            gain = candidate.held_out["sharpness"]
            assert gain.value == pytest.approx(means[candidate.number] - means[parent])
            assert gain.low is None or gain.low <= gain.value


def test_votes_for_a_parent_say_that_no_merge_is_better(short: ShortStudy) -> None:
    vote(short, 0, 2, 8)
    vote(short, 0, 3, 8)
    best = load_best(short.records, short.runtime.objective)
    assert best is not None
    assert best.trial.number == 0
    assert best.caveat is not None
    assert "no merge beats parent A" in best.caveat


def test_a_vote_that_is_taken_back_leaves_the_final_waiting(short: ShortStudy) -> None:
    before = final_of(short)
    vote(short, 2, 0, 1)
    assert final_of(short).votes == 1
    ballots = Ballots(short.records, short.artifacts)
    question = ballots.undo("bob")
    assert question is not None
    assert question.progress.endswith("in the final")
    assert final_of(short) == before
    assert take_back(short.records, "bob") is None


def test_a_final_that_is_held_again_keeps_the_votes_on_the_same_pictures(short: ShortStudy) -> None:
    vote(short, 2, 3, 4)
    again = hold(short).final
    assert again.votes == 4
    assert again.winner is not None
    assert again.winner.number == 2
    assert load_final(short.records) == again
    refresh_final(short.records)
    assert load_final(short.records) == again


def test_a_page_that_is_open_while_the_final_is_held_goes_on_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.voting.candidates.LOOK_SECONDS", 0.0)
    short = begin(tmp_path, CHANGES, shared=True)
    short.run()
    ballots = Ballots(short.records, short.artifacts)
    former = ballots.ask("bob")
    assert former is not None
    vote_in_search(short)
    hold(short)
    later = ballots.ask("bob")
    assert later is not None
    assert ballots.image(former.token, "right") is not None
    assert ballots.answer(former.token, "left")
    assert ballots.answer(later.token, "left")
    assert [len(load_votes(short.records, held_out=held_out)) for held_out in (False, True)] == [31, 1]
    short.database.close()


def test_people_see_the_votes_of_both(short: ShortStudy, call: Call) -> None:
    vote(short, 2, 0, 5)
    out = call("study", "votes", "short", "--storage", short.database.url, code=0).out
    assert "short: 30 votes by ann" in out
    assert "short, the final: 5 votes by bob" in out
    rows = json.loads(call("study", "votes", "short", "--json", "--storage", short.database.url, code=0).out)
    assert {row["trial"] for row in rows if row["held_out"]} == {0, 2}


def test_beside_other_scores_both_count(tmp_path: Path) -> None:
    short = finished(tmp_path, objective={"preference": None, "sharpness": None})
    vote(short, 2, 0, 5)
    final = final_of(short)
    units = {name: info.unit for name, info in short.runtime.infos.items()}
    for each in final.finalists:
        means = dict(each.set_scores) | {"sharpness": float(np.mean(each.image_scores["sharpness"]))}
        assert each.objectives[SINGLE] == pytest.approx(sum(means[name] / units[name] for name in units))
    for candidate in final.candidates:
        assert candidate.held_out[SINGLE].basis == "images"  # one prompt
    short.database.close()


def test_a_set_score_keeps_its_interval_whichever_parent_people_prefer(tmp_path: Path) -> None:
    likeness = short_spec()["scorers"]["likeness"] | {"kind": "kernel"}
    eight = {"seeds": list(range(11, 19))}  # the fewest images that it takes
    changes = {"suite": dict(SMALL["suite"]) | {"seeds": list(range(1, 9))}, "final": {"top": TOP} | eight}
    short = finished(tmp_path, scorers={"preference": None, "likeness": likeness}, **changes)
    number = final_of(short).candidates[0].number

    def gain() -> Gain:
        (found,) = [each.held_out["likeness"] for each in final_of(short).candidates if each.number == number]
        return found

    vote(short, 0, 1, 9)
    over_a = gain()
    vote(short, 1, 0, 24)
    over_b = gain()
    vote(short, 0, 1, 40)
    assert (over_a.parent, over_b.parent) == ("A", "B")
    assert over_b.low is not None
    assert over_b.value != over_a.value
    assert gain() == over_a
    short.database.close()


def test_only_merges_that_people_voted_on_take_part(tmp_path: Path) -> None:
    short = begin(tmp_path, CHANGES, shared=True)
    short.run()
    for merge in (2, 4):  # and both lose, so that the third would be expected to be better
        for time in range(8):
            cast_vote(short.records, show_pair(short.records, "ann", time % 2, 0, merge).token, "left")
    Ballots(short.records, short.artifacts)._refresh()
    hold(short)
    assert {each.number for each in final_of(short).candidates} == {2, 4}
    short.database.close()


def test_of_two_objectives_one_may_be_votes(tmp_path: Path) -> None:
    short = finished(tmp_path, objective=None, objectives=["preference", "sharpness"])
    objective = short.runtime.objective
    best = load_best(short.records, objective)
    assert best is not None
    assert best.caveat == AWAITS_VOTES
    candidate = final_of(short).candidates[0].number
    vote(short, 1, candidate, 15)
    vote(short, 0, candidate, 15)
    final = final_of(short)
    found = next(each for each in final.candidates if each.number == candidate)
    assert final.winner is None
    assert found.held_out["preference"].high is not None
    assert found.held_out["preference"].high < 0
    short.database.close()


def test_a_personal_head_learns_from_them_too(short: ShortStudy) -> None:
    vote(short, 2, 0, 4)
    compared = load_comparisons(short.database, short.artifacts, ["bob"])
    assert len(compared.comparisons) == 4
    assert {seed for _, seed in (each.item for each in compared.comparisons)} == {5, 6, 7}
    for file in compared.files:
        assert short.artifacts.open_render(file).size == (64, 64)


def test_the_renders_of_a_final_are_those_of_its_own_store(short: ShortStudy) -> None:
    empty = Artifacts.beside(short.database.url, Path(short.artifacts.location).parent / "elsewhere")
    assert Ballots(short.records, empty).ask("bob") is None
