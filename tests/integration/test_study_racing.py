"""A whole short study with racing on the demo's checkpoints, in real SQLite and real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from demo_study import DEMO, ShortStudy, begin, reopen, short_spec
from optuna.trial import Trial, TrialState
from optuna_dashboard import get_note
from safetensors.torch import load_file, save_file

from optimizer.outcome.export import Watch, deliver
from optimizer.outcome.final import choose_finalists
from optimizer.search.shortlist import by_value
from optimizer.search.stopping import images_of
from optimizer.trial.objective import SINGLE
from optimizer.trial.racing import ESTIMATE_KEY
from optimizer.trial.ranking import best_trials
from studies.files.artifacts import FEATURES
from studies.records import stored_renders, stored_trials
from studies.records.optuna_tables import TRIAL_NAME
from studies.records.values import StoredTrial

ITEMS, BATCH = 16, 8
KILLED = 3  # the trial that the killed worker was rendering: one that is stopped


def racing_spec(**changes: Any) -> dict[str, Any]:
    """Uniform merges near the parents, which are worse than the one in the middle."""
    return {
        "suite": short_spec()["suite"] | {"seeds": [1, 2], "steps": 3},
        "racing": {"batch": BATCH, "confidence": 0.8},
        "probes": {"uniform": [0.5, 0.05, 0.95], "profiles": 0},
        "sampler": {"name": "random"},
        "budget": {"trials": 5},
        "render": {"degenerate_limit": ITEMS},
    } | changes


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    short = begin(tmp_path_factory.mktemp("raced"), racing_spec())
    short.run()
    return short


def rows_of(short: ShortStudy) -> list[StoredTrial]:
    return stored_trials.load_trials(short.records)


def stopped_of(short: ShortStudy) -> list[StoredTrial]:
    found = [row for row in rows_of(short) if row.estimated]
    assert found
    return found


def items_of(short: ShortStudy, trial: StoredTrial) -> list[int]:
    return [render.item for render in stored_renders.load_renders(short.records, trial)]


def pixels_of(short: ShortStudy, trial: StoredTrial) -> dict[int, str]:
    return {render.item: render.pixels_sha256 for render in stored_renders.load_renders(short.records, trial)}


def test_parents_are_rendered_to_their_end_and_others_only_while_they_may_be_the_best(raced: ShortStudy) -> None:
    rows = rows_of(raced)
    assert {row.state for row in rows} == {"complete"}
    assert all(row.rendered == ITEMS and not row.estimated for row in rows[:3])
    assert rows[KILLED].rendered == BATCH
    assert {row.rendered for row in rows} == {BATCH, ITEMS}
    assert all(row.estimated == (row.rendered < ITEMS) for row in rows)
    first = sorted(item.index for item in raced.runtime.evaluator.renderer.stages[0])
    assert all(items_of(raced, row) == first for row in stopped_of(raced))


def test_the_incumbent_is_the_best_whole_trial_before(raced: ShortStudy) -> None:
    rows = rows_of(raced)
    for row in stopped_of(raced):
        whole = [other for other in rows[: row.number] if not other.estimated]
        assert row.incumbent == max(whole, key=lambda other: other.objectives[SINGLE]).number


def test_a_stopped_trial_is_told_as_the_incumbent_plus_the_mean_paired_difference(raced: ShortStudy) -> None:
    rows, infos = rows_of(raced), raced.runtime.infos
    likeness = raced.runtime.evaluator.scoring.scorers["likeness"]
    for row in stopped_of(raced):
        assert row.incumbent is not None
        best, items = rows[row.incumbent], items_of(raced, row)
        ours, _ = stored_renders.load_scores(raced.records, row)
        theirs, _ = stored_renders.load_scores(raced.records, best)
        clip = np.mean(np.array(ours["clip_score"]) - np.array(theirs["clip_score"])[items])
        one, other = (
            torch.from_numpy(
                raced.artifacts.of_trial(raced.study.key, each.number, each.worker_id).load_features()["likeness"]
            )
            for each in (row, best)
        )
        far = likeness.score(one) - likeness.score(other[items])  # type: ignore[arg-type]
        expected = clip / infos["clip_score"].unit - far / infos["likeness"].unit
        assert row.objectives[SINGLE] == pytest.approx(best.objectives[SINGLE] + expected)
        assert expected < 0


def test_optuna_learns_of_it_as_a_complete_trial_that_is_marked(raced: ShortStudy) -> None:
    study = optuna.load_study(study_name="short", storage=raced.database.storage)
    for row, trial in zip(rows_of(raced), study.trials, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == row.objectives[SINGLE]
        marked = {ESTIMATE_KEY: {"images": BATCH, "incumbent": row.incumbent}} if row.estimated else {}
        assert trial.user_attrs == {TRIAL_NAME: row.origin.named(row.number)} | marked
        note = get_note(Trial(study, trial._trial_id))
        assert (f"Stopped after {BATCH} of {ITEMS} images" in note) == row.estimated


def test_what_was_rendered_is_the_same_to_the_bit_whether_a_trial_is_stopped_or_not(raced: ShortStudy) -> None:
    rows = rows_of(raced)
    for row in (rows[KILLED], rows[2]):
        again = raced.runtime.evaluator.evaluate(row.recipe)
        assert again.items == tuple(range(ITEMS))
        whole = dict(enumerate(again.pixels_sha256))
        assert pixels_of(raced, row).items() <= whole.items()
        stored, _ = stored_renders.load_scores(raced.records, row)
        shown = list(pixels_of(raced, row))
        assert list(stored["clip_score"]) == [float(again.scores.by_item["clip_score"][item]) for item in shown]


def test_gains_of_a_stopped_trial_are_over_the_parents_on_the_same_items(raced: ShortStudy) -> None:
    rows = rows_of(raced)
    for row in stopped_of(raced):
        items = items_of(raced, row)
        ours, _ = stored_renders.load_scores(raced.records, row)
        parents = [
            np.array(stored_renders.load_scores(raced.records, rows[number])[0]["clip_score"]) for number in (0, 1)
        ]
        better = max(values[items].mean() for values in parents)
        assert row.gains["clip_score"].value == pytest.approx(np.mean(ours["clip_score"]) - better)


def test_a_stopped_trial_is_neither_best_nor_in_the_final(raced: ShortStudy) -> None:
    rows, objective = rows_of(raced), raced.runtime.objective
    stopped = {row.number for row in stopped_of(raced)}
    assert best_trials(rows, objective)[0].number not in stopped
    rank = by_value(objective)
    _, candidates = choose_finalists(rows, objective, rank, raced.runtime.spec.final)
    assert {row.number for row in candidates} == {row.number for row in rows[2:]} - stopped


def test_images_are_counted_as_they_were_rendered(raced: ShortStudy) -> None:
    rows = rows_of(raced)
    assert images_of(rows) == sum(len(items_of(raced, row)) for row in rows)
    assert images_of(rows) < len(rows) * ITEMS


def test_a_stopped_trial_is_exported_with_a_proof_of_what_it_has(raced: ShortStudy, tmp_path: Path) -> None:
    row, target = stopped_of(raced)[0], tmp_path / "merge.safetensors"
    silent = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)
    done = deliver(raced.records, row, raced.runtime.plan, raced.artifacts, target, overwrite=False, watch=silent)
    assert f"the {BATCH} renders that were scored are identical, to the bit" in done.proof


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_a_race_changes_nothing(raced: ShortStudy, tmp_path: Path) -> None:
    short = begin(tmp_path, racing_spec())
    code = f"""
import os, signal, sys; sys.path[:0] = sys.argv[2].split(':')
from pathlib import Path
import torch; torch.set_num_threads(int(sys.argv[3]))
from demo_study import Recorder, reopen
from optimizer.observe.events import ImagesRendered
from optimizer.work.trial_loop import TrialLoop

class Deadly(Recorder):
    def report(self, event):
        super().report(event)
        if event == ImagesRendered(images={BATCH}) and self.started[-1][0] == {KILLED}:
            os.kill(os.getpid(), signal.SIGKILL)

study = reopen(Path(sys.argv[1]))
TrialLoop(study.records, study.runtime, study.artifacts, Deadly()).run()
"""
    paths = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    command = [sys.executable, "-c", code, str(tmp_path), paths, str(torch.get_num_threads())]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert [row.state for row in rows_of(short)] == ["complete"] * KILLED + ["running"]
    reopen(tmp_path).run(stop_after=2)
    for ours, theirs in zip(rows_of(short), rows_of(raced), strict=False):
        assert (ours.recipe, ours.objectives, ours.rendered) == (theirs.recipe, theirs.objectives, theirs.rendered)
        assert (ours.incumbent, ours.gains) == (theirs.incumbent, theirs.gains)
        assert pixels_of(short, ours) == pixels_of(raced, theirs)
        assert stored_renders.load_scores(short.records, ours) == stored_renders.load_scores(raced.records, theirs)
    assert len(rows_of(short)) == KILLED + 2


@pytest.mark.slow
def test_nothing_is_raced_against_a_trial_whose_features_are_lost(tmp_path: Path) -> None:
    short = begin(tmp_path, racing_spec(budget={"trials": 4}))
    short.run(stop_after=KILLED)
    best = max(rows_of(short), key=lambda row: row.objectives[SINGLE])
    assert best.origin.parent is None  # without those of a parent nothing goes on
    files = short.artifacts.of_trial(short.study.key, best.number, best.worker_id)
    files.store.remove(files.name(FEATURES))
    short.run()
    assert rows_of(short)[KILLED].rendered == ITEMS


def test_a_broken_merge_fails_after_its_first_images(tmp_path: Path) -> None:
    tensors = load_file(DEMO / "foods.safetensors")
    tensors["model.diffusion_model.out.2.bias"] = torch.full((4,), 3e38)  # numbers that give none
    save_file(tensors, tmp_path / "broken.safetensors")
    parents = [str(DEMO / "animals.safetensors"), str(tmp_path / "broken.safetensors")]
    changes = {"render": {"degenerate_limit": 4}, "export": {"dtype": "fp32"}}
    short = begin(tmp_path, racing_spec(parents=parents, budget={"trials": 2}, **changes))
    short.run()
    whole, broken = rows_of(short)
    assert (whole.state, whole.rendered) == ("complete", ITEMS)
    assert (broken.state, broken.rendered) == ("failed", BATCH)
    assert f"degenerate: {BATCH} of {BATCH} images are broken" in (broken.reason or "")
    first = [item.index for item in short.runtime.evaluator.renderer.stages[0]]
    assert f"item {first[0]} " in (broken.reason or "")
