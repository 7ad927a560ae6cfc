"""Studies that begin with another's trials, on the demo's checkpoints: what keeps its scores, what does not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from demo_study import DEMO, PROMPTS, ShortStudy, begin, short_spec, write_spec
from optuna.trial import TrialState
from real_databases import new_postgresql_url

from optimizer.cli.workers.loading import load_stored_study
from optimizer.cli.workers.model_folders import searched_folders
from optimizer.cli.workers.new_study import start_study
from optimizer.outcome.scored_trials import WarmStart
from optimizer.outcome.warm_start import find_warm_start
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from studies.errors import DatabaseError, StudyMissingError, WarmStartError
from studies.files.artifacts import FEATURES, Artifacts
from studies.recipe.recipe import Recipe, Step
from studies.records import stored_renders, stored_studies, stored_trials
from studies.records.database import open_database
from studies.records.values import StoredTrial
from studies.spec.fingerprints import refuse_changed_spec
from studies.spec.study import load_spec

SMALL: Mapping[str, Any] = {
    "suite": {"prompts": PROMPTS, "seeds": [1], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None, "likeness": {**short_spec()["scorers"]["likeness"], "kind": "kernel"}},
    "objective": {"sharpness": None, "likeness": None},
    "sampler": {"name": "random"},
    "final": {"top": 0},
}
OLD = {**SMALL, "probes": {"uniform": [0.75], "profiles": 0}, "budget": {"trials": 4}}
NEW = {**SMALL, "study": "new", "warm_start": "short", "probes": {"uniform": [0.5], "profiles": 0}}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Parents, a uniform merge and one of the sampler's."""
    short = begin(tmp_path_factory.mktemp("old"), OLD)
    short.run()
    return short


@pytest.fixture
def folder(old: ShortStudy, tmp_path: Path) -> Path:
    """A copy of the old study's database and folder."""
    old.database.close()
    shutil.copytree(Path(old.artifacts.location).parent, tmp_path, dirs_exist_ok=True)
    return tmp_path


@dataclass
class Begun:
    """A warm-started study, with what it was begun with."""

    short: ShortStudy

    @property
    def rows(self) -> list[StoredTrial]:
        return stored_trials.load_trials(self.short.records)

    @property
    def copied(self) -> list[StoredTrial]:
        return [row for row in self.rows if row.source is not None]

    @property
    def probes(self) -> list[str]:
        """What is tried before the sampler proposes."""
        known = {row.recipe.digest for row in self.copied}
        return [str(probe.origin) for probe in self.short.runtime.probes if probe.recipe.digest not in known]

    @property
    def optunas(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="new", storage=self.short.database.storage).trials


def warm(folder: Path, changes: Mapping[str, Any] | None = None, trials: int = 2) -> Begun:
    """As the command line begins it: `new`, beside the old study unless the spec says otherwise."""
    spec = write_spec(folder / "new.yaml", **{**NEW, "budget": {"trials": trials}, **(changes or {})})
    url, artifacts = f"sqlite:///{folder}/study.db", folder / "artifacts"
    records, runtime = start_study(spec, url, folder / "cache", artifacts)
    return Begun(ShortStudy(records, runtime, Artifacts.beside(url, artifacts)))


def find(folder: Path, changes: Mapping[str, Any] | None = None) -> WarmStart:
    """What would be copied, as `study check` finds it."""
    plan = make_plan(load_spec(write_spec(folder / "new.yaml", **{**NEW, **(changes or {})})))
    url = f"sqlite:///{folder}/study.db"
    found = find_warm_start(plan, hash_parents(plan), torch.device("cpu"), url, folder / "artifacts")
    assert found is not None
    return found


def best_merges(old: ShortStudy, count: int) -> list[StoredTrial]:
    rows = stored_trials.load_trials(old.records)[2:]
    return sorted(rows, key=lambda row: -row.objectives["objective"])[:count]


def scores_of(short: ShortStudy, trial: StoredTrial) -> Any:
    return stored_renders.load_scores(short.records, trial)


def pixels_of(short: ShortStudy, trial: StoredTrial) -> list[str]:
    return [each.pixels_sha256 for each in stored_renders.load_renders(short.records, trial)]


class TestFullRight:
    def test_scores_objectives_and_gains_are_those_of_the_old_study_to_the_bit(
        self, old: ShortStudy, folder: Path
    ) -> None:
        new = warm(folder)
        before = stored_trials.load_trials(old.records)
        assert [row.source for row in new.copied] == [f"short trial {row.number}" for row in before]
        recorder = new.short.run()
        for row, theirs in zip(new.copied, before, strict=True):
            assert row.objectives == theirs.objectives
            assert row.gains == theirs.gains
            assert scores_of(new.short, row) == scores_of(old, theirs)
            assert pixels_of(new.short, row) == pixels_of(old, theirs)
            assert row.machine == theirs.machine
        assert recorder.started == [(4, "uniform 0.5"), (5, "random")]
        assert [trial.value for trial in new.optunas[:4]] == [row.objectives["objective"] for row in before]
        assert new.optunas[2].params == dict.fromkeys(new.optunas[2].params, 0.75)
        for row in new.copied[1:3]:  # what a newly rendered trial of the same recipe gives
            evaluation = new.short.runtime.evaluator.evaluate(row.recipe)
            assert list(evaluation.pixels_sha256) == pixels_of(new.short, row)
            by_item, by_set = scores_of(new.short, row)
            assert {name: tuple(values) for name, values in evaluation.scores.by_item.items()} == by_item
            assert dict(evaluation.scores.by_set) == by_set
            assert new.short.runtime.objective.values(evaluation.scores.means) == row.objectives

    @pytest.mark.slow
    def test_it_goes_on_as_if_never_stopped_when_the_old_study_is_gone(self, folder: Path) -> None:
        there, here = folder / "theirs", folder / "ours"
        there.mkdir()
        here.mkdir()
        shutil.move(folder / "study.db", there / "study.db")
        shutil.move(folder / "artifacts", there / "artifacts")
        whole = warm(folder, {"warm_start": asked(there)})
        whole.short.run()
        before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file() and "-" not in path.suffix}
        new = warm(here, {"warm_start": asked(there)})
        after = {path: path.read_bytes() for path in there.rglob("*") if path.is_file() and "-" not in path.suffix}
        assert after == before  # the other study stays as it was
        shutil.rmtree(there)
        started = []
        for _ in range(2):
            records = stored_studies.open_study(new.short.database, "new")
            refuse_changed_spec(records.study.spec, load_spec(here / "new.yaml"))
            runtime = load_stored_study(records.study, searched_folders(None, here / "cache"), here / "cache")
            recorder = ShortStudy(records, runtime, new.short.artifacts).run(stop_after=1)
            started += recorder.started
        assert started == [(4, "uniform 0.5"), (5, "random")]  # nothing is copied again
        assert [trial.params for trial in whole.optunas] == [trial.params for trial in new.optunas]
        assert [row.objectives for row in whole.rows] == [row.objectives for row in new.rows]
        assert [row.gains for row in whole.rows] == [row.gains for row in new.rows]
        pictures = [
            new.short.artifacts.for_optuna.open_reader(row.contact_sheet).read()
            for row in new.copied
            if row.contact_sheet
        ]
        assert len(pictures) == 4
        assert all(picture.startswith(b"\xff\xd8") for picture in pictures)  # a JPEG

    @pytest.mark.slow
    def test_several_objectives_of_which_the_old_study_had_one_number(self, old: ShortStudy, folder: Path) -> None:
        new = warm(folder, {"objective": None, "objectives": ["sharpness", "likeness"]})
        for trial, theirs in zip(new.optunas, stored_trials.load_trials(old.records), strict=True):
            by_item, by_set = scores_of(old, theirs)
            assert trial.values == [pytest.approx(sum(by_item["sharpness"]) / len(PROMPTS)), by_set["likeness"]]

    @pytest.mark.slow
    def test_what_the_space_cannot_express_is_kept_without_parameters(self, folder: Path) -> None:
        new = warm(folder, {"space": {"granularity": "sections", "bounds": {"*": [0.3, 1.0]}}})
        states = {str(row.origin): trial.state for row, trial in zip(new.copied, new.optunas, strict=True)}
        assert states["parent A"] == TrialState.PRUNED
        assert states["uniform 0.75"] == TrialState.COMPLETE
        assert new.probes == ["uniform 0.5"]

    def test_other_weights_or_fewer_scorers_keep_the_scores(self, old: ShortStudy, folder: Path) -> None:
        """The objective is a matter of the new study alone."""
        found = find(folder, {"objective": None, "scorers": {"sharpness": None}})
        for scored, theirs in zip(found.scored, stored_trials.load_trials(old.records), strict=True):
            assert tuple(scored.scores.by_item["sharpness"]) == scores_of(old, theirs)[0]["sharpness"]
            assert scored.scores.by_set == {}
        assert len(find(folder, {"objective": {"sharpness": {"weight": 3}}}).scored) == 4

    def test_only_the_best_are_taken_when_asked_and_always_the_parents(self, old: ShortStudy, folder: Path) -> None:
        found = find(folder, {"warm_start": {"study": "short", "top": 1}})
        wanted = sorted([0, 1, best_merges(old, 1)[0].number])
        assert [scored.trial.number for scored in found.scored] == wanted
        assert found.again == ()

    def test_files_that_lie_elsewhere_are_the_same_files(self, folder: Path) -> None:
        copy = folder / "models"
        shutil.copytree(DEMO, copy, ignore=shutil.ignore_patterns("training", "*.py"))
        scorers = {"likeness": NEW["scorers"]["likeness"] | {"weights": str(copy / "features.safetensors")}}
        parents = [str(copy / name) for name in ("animals.safetensors", "foods.safetensors")]
        assert len(find(folder, {"scorers": scorers, "objective": None, "parents": parents}).scored) == 4

    @pytest.mark.parametrize("suite", [{"seeds": [2**32 + 1]}, {"negative": " "}])
    def test_suites_that_are_written_otherwise_and_render_the_same(self, folder: Path, suite: dict[str, Any]) -> None:
        assert len(find(folder, {"suite": {**SMALL["suite"], **suite}}).scored) == 4

    @pytest.mark.slow
    def test_from_postgresql_into_sqlite(self, tmp_path: Path) -> None:
        short = begin(tmp_path, {**OLD, "budget": {"trials": 2}}, url=new_postgresql_url())
        short.run()
        new = warm(tmp_path, {"warm_start": asked(tmp_path, short.database.url)})
        theirs = stored_trials.load_trials(short.records)
        assert [scores_of(new.short, row) for row in new.copied] == [scores_of(short, row) for row in theirs]
        assert [row.objectives for row in new.copied] == [row.objectives for row in theirs]
        short.database.close()


def asked(folder: Path, storage: str | None = None) -> dict[str, str]:
    return {"study": "short", "storage": storage or str(folder / "study.db"), "artifacts": str(folder / "artifacts")}


@pytest.mark.slow
def test_features_of_a_set_score_that_was_dropped_are_passed_over(old: ShortStudy, folder: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{folder}/study.db", folder / "artifacts")
    for row in stored_trials.load_trials(old.records):
        files = artifacts.of_trial(old.study.key, row.number, row.worker_id)
        files.save_features(files.load_features() | {"dropped": np.zeros((len(PROMPTS), 3))})
    new = warm(folder, trials=1)
    new.short.run()
    assert [dict(row.gains) for row in new.copied] == [
        dict(row.gains) for row in stored_trials.load_trials(old.records)
    ]


class TestRenderedAnew:
    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"suite": {**SMALL["suite"], "steps": 2}}, "another suite"),
            ({"scorers": {"contrast": None}, "objective": None}, "other scorers: contrast"),
            (
                {"scorers": {"likeness": {**SMALL["scorers"]["likeness"], "input_size": 32}}, "objective": None},
                "likeness",
            ),
            ({"suite": {**SMALL["suite"], "prompts": [text.upper() for text in PROMPTS]}}, "written otherwise"),
            ({"export": {"dtype": "bf16"}}, "another export dtype"),
            ({"render": {"degenerate_limit": 7}}, "fewer broken images are allowed"),
            ({"render": {"degenerate_limit": 8, "batch_size": 1}}, "batch size"),
            ({"parents": [str(DEMO / "foods.safetensors"), str(DEMO / "animals.safetensors")]}, "another order"),
        ],
    )
    def test_where_scores_do_not_hold_the_best_merges_become_probes(
        self, old: ShortStudy, folder: Path, changes: dict[str, Any], why: str
    ) -> None:
        found = find(folder, changes | {"warm_start": {"study": "short", "top": 2}})
        best = best_merges(old, 2)
        assert found.scored == ()
        assert [row.name for row in found.again] == [f"short trial {row.number}" for row in best]
        (note,) = found.notes
        assert why in note
        for found_recipe, row in zip(found.again, best, strict=True):
            made = Recipe.from_json(found_recipe.recipe)
            (step,), (theirs,) = made.steps, row.recipe.steps
            assert step.values == theirs.values
            assert files_of(made, step) == files_of(row.recipe, theirs)

    def test_without_their_features_trials_are_rendered_anew(self, folder: Path) -> None:
        for file in (folder / "artifacts").rglob(FEATURES):
            file.unlink()
        found = find(folder)
        assert (found.scored, len(found.again)) == ((), 2)
        assert "features that are not stored" in found.notes[0]

    @pytest.mark.slow
    def test_they_are_rendered_on_the_new_suite(self, old: ShortStudy, folder: Path) -> None:
        changes = {"suite": {**SMALL["suite"], "steps": 2}, "warm_start": {"study": "short", "top": 1}}
        new = warm(folder, changes | {"probes": {"uniform": [], "profiles": 0}}, trials=3)
        (best,) = best_merges(old, 1)
        assert new.probes == ["parent A", "parent B", f"from short trial {best.number}"]
        new.short.run()
        assert [str(row.origin) for row in new.rows] == new.probes
        assert {row.source for row in new.rows} == {None}
        assert pixels_of(new.short, new.rows[2]) != pixels_of(old, best)


def files_of(recipe: Recipe, step: Step) -> list[str]:
    """sha256 of what a step merges."""
    files = {parent.letter: parent.sha256 for parent in recipe.parents}
    return [files[name] for name in step.operation.inputs]


class TestRefused:
    def test_a_study_that_is_not_there(self, folder: Path) -> None:
        with pytest.raises(StudyMissingError, match=r"warm_start: no study named 'gone'.*short"):
            find(folder, {"warm_start": "gone"})
        with pytest.raises(DatabaseError, match=r"warm_start: no study database at .*gone.db"):
            find(folder, {"warm_start": {"study": "short", "storage": "gone.db"}})

    def test_a_study_over_other_files(self, folder: Path) -> None:
        parents = [str(DEMO / "animals.safetensors"), str(DEMO / "animals.safetensors")]
        other = folder / "other.safetensors"
        shutil.copyfile(DEMO / "foods.safetensors", other)
        with other.open("r+b") as file:
            file.seek(-2, 2)
            file.write(bytes([0, 60]))
        parents = [str(DEMO / "animals.safetensors"), str(other)]
        with pytest.raises(WarmStartError, match=r"merges animals.safetensors \+ foods.safetensors, this one animals"):
            find(folder, {"parents": parents})

    def test_a_study_without_a_finished_trial(self, folder: Path) -> None:
        database = open_database(f"sqlite:///{folder}/study.db", create=False)
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE mergetune_trials SET state = 'failed'")
        database.close()
        with pytest.raises(WarmStartError, match="has no finished trial"):
            find(folder)
