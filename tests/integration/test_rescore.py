"""Other scorers over stored renders, on the demo's checkpoints: as if the study had been rendered with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import Call, caller, enter
from demo_study import DEMO, PROMPTS, ShortStudy, begin, reopen, short_spec, write_spec

from optimizer.outcome.other_study import Other
from studies.files.artifacts import Artifacts
from studies.records import stored_renders, stored_studies, stored_trials
from studies.records.database import open_database
from studies.records.kept_renders import render_name
from studies.records.values import StoredTrial

# The search is random, so what is proposed under a number does not depend on scores; racing makes it score by stages.
SMALL: Mapping[str, Any] = {
    "suite": {"prompts": PROMPTS, "seeds": [1, 2], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None, "likeness": {**short_spec()["scorers"]["likeness"], "kind": "kernel"}},
    "objective": {"sharpness": None, "likeness": None},
    "racing": {"batch": 8, "confidence": 0.9999},
    "sampler": {"name": "random"},
    "probes": {"uniform": [0.75], "profiles": 0},
    "final": {"top": 0},
    "budget": {"trials": 4},
    "render": {"degenerate_limit": 8, "keep": "all"},
}
OTHER: Mapping[str, Any] = {
    "scorers": {"contrast": None, "clip_score": short_spec()["scorers"]["clip_score"], **SMALL["scorers"]},
    "objective": {"contrast": {"weight": 2}, "clip_score": None, "likeness": {"weight": 0.5}},
    "render": {"degenerate_limit": 8, "keep": "best"},
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Parents, a uniform merge and one of the sampler's, with all of their images."""
    short = begin(tmp_path_factory.mktemp("old"), SMALL)
    short.run()
    short.records.database.close()
    return short


@pytest.fixture
def folder(old: ShortStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study's database and files, as the current folder."""
    shutil.copytree(Path(old.artifacts.location).parent, tmp_path, dirs_exist_ok=True)
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def mergetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys, "study")


def rescore(mergetune: Call, folder: Path, code: int = 0, **changes: Any) -> str:
    """What is said; the new study is `new`."""
    spec = write_spec(folder / "new.yaml", **{**SMALL, "study": "new", **changes})
    outcome = mergetune("rescore", "short", spec, *places(folder), code=code)
    if code:
        assert outcome.err.count("\n") == 1
    return " ".join((outcome.err if code else outcome.out).split())


def places(folder: Path) -> list[str]:
    return [
        "--storage",
        f"sqlite:///{folder}/study.db",
        "--artifacts",
        str(folder / "artifacts"),
        "--cache",
        str(folder / "cache"),
    ]


def look(folder: Path, name: str) -> Other:
    """A study as it is stored."""
    database = open_database(f"sqlite:///{folder}/study.db", create=False)
    return Other(
        records=stored_studies.open_study(database, name),
        artifacts=Artifacts.beside(database.url, folder / "artifacts"),
    )


def rows_of(short: ShortStudy | Other) -> list[StoredTrial]:
    return stored_trials.load_trials(short.records)


def found_in(short: ShortStudy | Other, row: StoredTrial) -> dict[str, Any]:
    """Everything that follows from a trial's images and the scorers."""
    features = short.artifacts.of_trial(short.records.study.key, row.number, row.worker_id).load_features()
    return {
        "recipe": row.recipe,
        "objectives": row.objectives,
        "gains": row.gains,
        "errors": row.errors,
        "scores": stored_renders.load_scores(short.records, row),
        "features": {name: rows.tolist() for name, rows in features.items()},
        "pixels": [each.pixels_sha256 for each in stored_renders.load_renders(short.records, row)],
        "machine": row.machine,
    }


def optunas(short: ShortStudy | Other) -> list[tuple[Any, ...]]:
    trials = optuna.load_study(study_name=short.records.study.name, storage=short.records.database.storage).trials
    return [(trial.number, trial.state, trial.values, trial.params) for trial in trials]


def with_files(short: ShortStudy | Other) -> frozenset[int]:
    return frozenset(stored_renders.stored_files(short.records))


def test_the_same_scorers_give_the_same_study_to_the_bit(folder: Path, mergetune: Call) -> None:
    said = rescore(mergetune, folder)
    before, new = look(folder, "short"), look(folder, "new")
    assert [found_in(new, row) for row in rows_of(new)] == [found_in(before, row) for row in rows_of(before)]
    assert optunas(new) == optunas(before)
    assert [row.source for row in rows_of(new)] == [f"short trial {number}" for number in range(4)]
    for ours, theirs in zip(rows_of(new), rows_of(before), strict=True):
        mine, other = (
            short.artifacts.of_trial(short.records.study.key, row.number, row.worker_id)
            for short, row in ((new, ours), (before, theirs))
        )
        labels = before.records.study.spec.suite.render_labels()
        assert mine.files() == other.files() > {render_name(ours.number, label) for label in labels}
    assert "4 of 4 trials of short are scored anew" in said
    best = max(rows_of(before), key=lambda row: row.objectives["objective"])
    assert f"best by the new objective: trial {best.number} ({best.origin}, from short trial {best.number})" in said
    assert "best by the old objective (best observed): the same" in said
    assert "Continue with: mergetune study resume" in said


@pytest.mark.slow
def test_a_suite_that_is_written_otherwise_has_the_same_images(tmp_path: Path, mergetune: Call) -> None:
    suite = {"prompts": PROMPTS, "seeds": [1], "sizes": [64], "steps": 1}
    short = begin(tmp_path, {**SMALL, "suite": suite, "racing": None, "budget": {"trials": 2}})
    short.run()
    short.records.database.close()
    otherwise = {**suite, "prompts": [text.title() for text in PROMPTS], "seeds": [2**32 + 1]}
    assert "2 of 2 trials of short are scored anew" in rescore(mergetune, tmp_path, suite=otherwise, racing=None)


@pytest.mark.slow
def test_other_scorers_give_what_a_study_rendered_with_them_has_and_it_goes_on_like_that(
    folder: Path, mergetune: Call
) -> None:
    (folder / "fresh").mkdir()
    fresh = begin(folder / "fresh", {**SMALL, **OTHER, "budget": {"trials": 5}})
    fresh.run(stop_after=4)
    rendered = [found_in(fresh, row) for row in rows_of(fresh)]
    rescore(mergetune, folder, **OTHER, budget={"trials": 1})
    new = reopen(folder, "new")
    assert [found_in(new, row) for row in rows_of(new)] == rendered
    assert optunas(new) == optunas(fresh)
    assert with_files(new) == with_files(fresh)  # as `keep: best` has it
    recorder = new.run()
    fresh.run()
    assert recorder.started == [(4, "random")]  # no parent and no probe again
    assert found_in(new, rows_of(new)[4]) == found_in(fresh, rows_of(fresh)[4])
    assert optunas(new) == optunas(fresh)
    fresh.database.close()


def test_only_images_that_are_what_was_scored_count(folder: Path, mergetune: Call) -> None:
    before = look(folder, "short")
    whole = {row.number: found_in(before, row) for row in rows_of(before)}
    gone, broken, other = (
        Path(before.artifacts.location) / str(stored_renders.load_renders(before.records, row)[2].file)
        for row in rows_of(before)[1:]
    )
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:-400])
    with before.artifacts.open_render(other.relative_to(before.artifacts.location).as_posix()) as picture:
        picture.putpixel((3, 4), (1, 2, 3))
        picture.save(other)
    said = rescore(mergetune, folder, budget={"trials": 1})
    assert "an image is gone or is not what was scored: 3 trials (1, 2, 3): item 2, studies/" in said
    new = reopen(folder, "new")
    (parent,) = rows_of(new)
    assert (parent.source, parent.objectives, parent.gains) == ("short trial 0", whole[0]["objectives"], {})
    assert new.run().started == [(1, "parent B")]  # and now there are gains
    assert [row.gains for row in rows_of(new)] == [whole[0]["gains"], whole[1]["gains"]]


def test_stopped_and_failed_trials_stay_behind(folder: Path, mergetune: Call) -> None:
    before = look(folder, "short")
    with before.records.database.write() as connection:
        connection.exec_driver_sql("UPDATE mergetune_trials SET incumbent = 0 WHERE number = 2")
        connection.exec_driver_sql("UPDATE mergetune_trials SET state = 'failed' WHERE number = 3")
    said = rescore(mergetune, folder)
    assert "left out, stopped by racing: 1 trial (2)" in said
    assert "left out, failed: 1 trial (3)" in said
    assert [row.source for row in rows_of(look(folder, "new"))] == ["short trial 0", "short trial 1"]


def test_a_study_without_its_images_is_refused(folder: Path, mergetune: Call) -> None:
    mergetune("prune-artifacts", "short", "--keep", "none", *places(folder)[:4], code=0)
    said = rescore(mergetune, folder, code=2)
    assert "'short' has no trial to score anew (left out, not all images were stored: 4 trials (0, 1, 2, 3))" in said


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"suite": {**SMALL["suite"], "steps": 2}}, "another suite"),
        ({"suite": {**SMALL["suite"], "prompts": [text.title() for text in PROMPTS]}}, "other stages"),
        ({"racing": None, "render": {**SMALL["render"], "batch_size": 1}}, "another dtype or batch size"),
        ({"render": {**SMALL["render"], "fp16_accumulation": True}}, "sums in fp16"),
        ({"suite": {**SMALL["suite"], "sizes": [576]}, "render": {**SMALL["render"], "vae_tiling": True}}, "in tiles"),
        ({"parents": [str(DEMO / f"{name}.safetensors") for name in ("foods", "animals")]}, "stand in another order"),
        ({"warm_start": "short"}, "leave `warm_start` out"),
        ({"study": "short"}, "a study named 'short' exists"),
    ],
)
def test_a_spec_of_other_images_is_refused_in_one_line(
    folder: Path, mergetune: Call, changes: dict[str, Any], why: str
) -> None:
    assert why in rescore(mergetune, folder, code=2, **changes)
    assert [each.study.name for each in stored_studies.list_studies(look(folder, "short").records.database)] == [
        "short"
    ]
