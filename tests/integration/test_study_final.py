"""The final of a whole short study on the demo's checkpoints, in real SQLite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo_study import ShortStudy, begin
from scipy import stats
from torch import Tensor

from optimizer.errors import FinalError
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.search.shortlist import by_value
from optimizer.trial.objective import SINGLE
from optimizer.trial.ranking import parent_trials
from studies.records import stored_renders, stored_trials
from studies.records.database import open_database
from studies.records.finals import Final, load_final, store_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

BUDGET = 6  # two parents, three uniform merges, a depth profile
CLIP_ONLY = {"probes": {"profiles": 1}, "budget": {"trials": BUDGET}, "objective": {"clip_score": None}}


class Watched:
    """Callbacks that remember."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.rendered: list[int] = []
        self.shown: dict[int, int] = {}

    @property
    def progress(self) -> FinalProgress:
        return FinalProgress(
            started=lambda row, total: self.begun.append((row.number, total)), rendered=self.rendered.append
        )

    def keep(self, row: StoredTrial, images: Sequence[Tensor]) -> None:
        self.shown[row.number] = len(images)


def hold(short: ShortStudy) -> tuple[Final, Watched]:
    watched = Watched()
    rank = by_value(short.runtime.objective)
    trials = stored_trials.load_trials(short.records)
    return hold_final(short.runtime, trials, rank, watched.progress, watched.keep), watched


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    changes = CLIP_ONLY | {"final": {"top": 2}}
    study = begin(tmp_path_factory.mktemp("final"), changes)
    study.run()
    return study


@pytest.fixture(scope="module")
def held(short: ShortStudy) -> tuple[Final, Watched]:
    return hold(short)


def test_the_best_observed_and_all_parents_are_rendered_and_nothing_else(
    short: ShortStudy, held: tuple[Final, Watched]
) -> None:
    rows = [row for row in stored_trials.load_trials(short.records) if row.origin.kind != "parent"]
    best = sorted(rows, key=lambda row: -row.objectives[SINGLE])[:2]
    final, watched = held
    assert [row.number for row in final.candidates] == [row.number for row in best]
    assert [str(row.origin) for row in final.parents] == ["parent A", "parent B"]
    assert watched.begun == [(row.number, 4) for row in final.finalists]
    assert max(watched.rendered) == 8
    assert watched.shown == {row.number: 8 for row in final.finalists}


def test_the_held_out_suite_differs_from_the_search_in_its_noise_alone(
    short: ShortStudy, held: tuple[Final, Watched]
) -> None:
    suite, other = short.study.spec.suite.items(), short.study.spec.held_out.items()
    assert [(row.prompt, row.width) for row in other] == [(row.prompt, row.width) for row in suite]
    assert not {row.seed for row in suite} & {row.seed for row in other}
    final, _ = held
    for finalist in final.finalists:
        row = stored_trials.load_trial(short.records, finalist.number)
        assert row is not None
        seen, _ = stored_renders.load_scores(short.records, row)
        assert len(finalist.image_scores["clip_score"]) == 8
        assert finalist.image_scores["clip_score"] != seen["clip_score"]


def test_gains_are_paired_with_the_better_parent_held_out(short: ShortStudy, held: tuple[Final, Watched]) -> None:
    final, _ = held
    unit = short.runtime.infos["clip_score"].unit
    better = max(final.parents, key=lambda row: np.mean(row.image_scores["clip_score"]))
    for candidate in final.candidates:
        pair = [np.array(row.image_scores["clip_score"]) / unit for row in (candidate, better)]
        paired = stats.ttest_rel(*pair).confidence_interval(0.95)
        gain = candidate.held_out[SINGLE]
        assert gain.parent == better.origin.parent
        assert gain.value == pytest.approx(np.mean(pair[0] - pair[1]))
        assert (gain.low, gain.high) == pytest.approx((paired.low, paired.high))
    winner = max(final.candidates, key=lambda row: np.mean(row.image_scores["clip_score"]))
    assert final.winner == winner


def test_the_study_goes_on_after_a_final_as_if_there_had_been_none(short: ShortStudy) -> None:
    hold(short)
    trial = next(iter(parent_trials(stored_trials.load_trials(short.records)).values()))
    again = short.runtime.evaluator.evaluate(trial.recipe)
    stored = [render.pixels_sha256 for render in stored_renders.load_renders(short.records, trial)]
    assert list(again.pixels_sha256) == stored


def test_a_stored_final_is_the_one_that_was_held_and_another_replaces_it(
    short: ShortStudy, held: tuple[Final, Watched]
) -> None:
    final, _ = held
    store_final(short.records, final)
    assert load_final(short.records) == final
    fewer = replace(final, finalists=final.finalists[:3])
    store_final(short.records, fewer)
    assert load_final(short.records) == fewer


def test_two_finals_at_once_leave_one_of_them_whole(short: ShortStudy, held: tuple[Final, Watched]) -> None:
    final, _ = held
    finals = [replace(final, created_at=float(index), finalists=final.finalists[: 3 + index % 2]) for index in range(6)]
    databases = [open_database(short.database.url) for _ in finals]
    threads = [
        threading.Thread(target=store_final, args=(StudyRecords(database=database, study=short.study), one))
        for database, one in zip(databases, finals, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_final(short.records) in finals
    for database in databases:
        database.close()


def test_a_final_that_cannot_be_stored_leaves_the_one_before(short: ShortStudy, held: tuple[Final, Watched]) -> None:
    final, _ = held
    store_final(short.records, final)
    twice = replace(final, finalists=(*final.finalists, final.finalists[0]))
    with pytest.raises(Exception, match="UNIQUE"):
        store_final(short.records, twice)
    assert load_final(short.records) == final


def test_a_study_that_is_deleted_takes_its_final_along(held: tuple[Final, Watched], tmp_path: Path) -> None:
    study = begin(tmp_path, CLIP_ONLY)
    store_final(study.records, held[0])
    with study.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM mergetune_studies")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("SELECT count(*) FROM mergetune_finals").fetchone() == (0,)


def test_a_trial_finished_afterwards_outdates_the_final(tmp_path: Path) -> None:
    other = {"top": 1, "prompts": ["an emoji of a frog", "an emoji of a taco"], "seeds": [5, 6, 7, 8, 9]}
    study = begin(tmp_path, CLIP_ONLY | {"final": other})
    study.run(stop_after=3)
    final, _ = hold(study)
    assert {len(row.image_scores["clip_score"]) for row in final.finalists} == {10}
    assert not final.is_outdated(stored_trials.load_trials(study.records))
    study.run(stop_after=1)
    assert final.is_outdated(stored_trials.load_trials(study.records))


@pytest.mark.slow
def test_members_of_a_front_all_take_part_and_none_wins(tmp_path: Path) -> None:
    two = {"objective": None, "objectives": ["clip_score", "likeness"], "final": {"top": 3}}
    study = begin(tmp_path, CLIP_ONLY | two)
    study.run(stop_after=4)
    trials = stored_trials.load_trials(study.records)
    final, _ = hold(study)
    signed = {row.number: (row.objectives["clip_score"], -row.objectives["likeness"]) for row in trials}
    front = {
        one for one, mine in signed.items() if not any(a > mine[0] and b > mine[1] for a, b in signed.values())
    } - {0, 1}
    assert {row.number for row in final.candidates} == front
    assert final.winner is None
    for candidate in final.candidates:
        for name, gain in candidate.held_out.items():
            if name == "clip_score":
                parents = {row.origin.name: float(np.mean(row.image_scores[name])) for row in final.parents}
                assert gain.value == pytest.approx(float(np.mean(candidate.image_scores[name])) - max(parents.values()))
                assert gain.parent == max(parents, key=lambda letter: parents[letter])


def test_without_a_candidate_there_is_no_final(tmp_path: Path) -> None:
    study = begin(tmp_path, CLIP_ONLY)
    with pytest.raises(FinalError, match="no parent's trial is finished"):
        hold(study)
    study.run(stop_after=2)
    with pytest.raises(FinalError, match="no candidate"):
        hold(study)
