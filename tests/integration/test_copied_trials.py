"""Trials that a study begins with: copied whole into its database and folder, or not at all."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from real_databases import new_postgresql_url
from stored_study import SPEC

from optimizer.search.sampler import distributions
from search_spaces.blocks import Architecture
from search_spaces.space import SearchSpace
from studies.errors import StudyExistsError
from studies.files.artifacts import SHEET, Artifacts
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import Parent
from studies.records import stored_renders, stored_studies, stored_trials
from studies.records.copied_trials import CopiedTrial, CopiedTrials
from studies.records.database import Database, open_database
from studies.records.origins import Origin
from studies.records.values import ParentFile, TrialResult
from studies.spec.study import parse_spec

COUNT = 14
OUTSIDE = 7  # this one has no parameters


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = open_database(new_postgresql_url() if request.param == "postgresql" else f"sqlite:///{tmp_path}/study.db")
    yield opened
    opened.close()


def trials_to_copy(folder: Path) -> list[CopiedTrial]:
    """Random scores and small files, the same in every call."""
    spec = parse_spec(SPEC.format(name="new"), base_dir=Path("/"))
    space, blueprint = space_and_blueprint()
    generator = np.random.default_rng(0)
    files = Artifacts.beside("", folder / "old").of_trial("old", 0, "w")
    for name in (SHEET, "0000.png"):
        files.store.write(files.name(name), b"a picture")
    files.save_features({"fid": generator.normal(size=(4, 3))})
    trials = []
    for number in range(COUNT):
        params = {row.name: float(generator.uniform(row.low, row.high)) for row in space.parameters}
        scores = {name: tuple(map(float, generator.normal(size=4))) for name in spec.scorers}
        trials.append(
            CopiedTrial(
                origin=Origin("sampler", "gp"),
                source=f"old trial {3 * number}",
                recipe=blueprint.recipe(space.numbers_by_place(params)),
                params=None if number == OUTSIDE else params,
                result=TrialResult(
                    objectives={"objective": float(generator.normal())},
                    image_scores=scores,
                    set_scores={"fid": float(generator.normal())},
                    pixels_sha256=tuple(f"{number}-{item}" for item in range(4)),
                    seconds={"merge": 0.5},
                    machine={"device": "cpu"},
                ),
                files=files,
                renders={0: "0000.png"} if number == 1 else {},  # as an earlier version called it
                has_contact_sheet=number < 3,
                features=files.load_features,
                worker_id="w",
                started_at=100.0 + number,
                finished_at=101.0 + number,
            )
        )
    return trials


def space_and_blueprint() -> tuple[SearchSpace, Blueprint]:
    spec = parse_spec(SPEC.format(name="new"), base_dir=Path("/"))
    space = spec.search_space(Architecture.SD15)
    parents = tuple(Parent(letter=letter, name=letter, sha256=letter) for letter in "AB")
    return space, Blueprint(architecture=Architecture.SD15, parents=parents, operations=spec.operations)


def begin(url: str, folder: Path) -> None:
    """Begin the study `new` with the trials, in this process."""
    files = [
        ParentFile(letter=letter, path=Path(f"/models/{letter}.safetensors"), sha256=letter, bytes=1, mtime_ns=0)
        for letter in "AB"
    ]
    space, _ = space_and_blueprint()
    database = open_database(url)
    try:
        spec = parse_spec(SPEC.format(name="new"), base_dir=Path("/"))
        artifacts = Artifacts.beside(url, folder / "artifacts")
        copied = CopiedTrials(trials_to_copy(folder), distributions(space), artifacts, spec.suite)
        stored_studies.create_study(database, spec, files, ["maximize"], ["objective"], copied)
    finally:
        database.close()


def stored(database: Database, folder: Path) -> list[Any]:
    """Everything of the study but ids that the database chose."""
    records = stored_studies.open_study(database, "new")
    artifacts = files_of(folder)
    found: list[Any] = []
    for row in stored_trials.load_trials(records):
        renders = [
            (each.item, each.pixels_sha256, each.file is not None) for each in stored_renders.load_renders(records, row)
        ]
        files = [artifacts.store.read(each.file) for each in stored_renders.load_renders(records, row) if each.file]
        mine = artifacts.of_trial(records.study.key, row.number, row.worker_id)
        features = {name: rows.tobytes() for name, rows in mine.load_features().items()}
        sheet = None if row.contact_sheet is None else artifacts.for_optuna.open_reader(row.contact_sheet).read()
        what = (row.number, row.origin, row.source, row.recipe, row.state, dict(row.objectives), row.gains)
        times = (dict(row.seconds), dict(row.machine), row.started_at, row.finished_at)
        copies = (renders, files, features, sheet)
        found.append((*what, *times, stored_renders.load_scores(records, row), *copies))
    trials = optuna.load_study(study_name="new", storage=database.storage).trials
    found += [(trial.number, trial.state, trial.values, trial.params, trial.distributions) for trial in trials]
    return found


def test_a_study_begins_with_copies_of_everything(database: Database, tmp_path: Path) -> None:
    begin(database.url, tmp_path)
    trials = trials_to_copy(tmp_path)
    shutil.rmtree(tmp_path / "old")  # the other study may vanish
    records = stored_studies.open_study(database, "new")
    rows = stored_trials.load_trials(records)
    assert [row.number for row in rows] == list(range(COUNT))
    optunas = optuna.load_study(study_name="new", storage=database.storage)
    artifacts = files_of(tmp_path)
    for row, copied, trial in zip(rows, trials, optunas.trials, strict=True):
        assert (row.state, str(row.origin), row.source, row.recipe) == ("complete", "gp", copied.source, copied.recipe)
        assert row.title == f"gp, from {copied.source}"
        assert row.objectives == copied.result.objectives
        by_item, by_set = stored_renders.load_scores(records, row)
        assert (by_item, by_set) == (copied.result.image_scores, copied.result.set_scores)
        assert (
            tuple(each.pixels_sha256 for each in stored_renders.load_renders(records, row))
            == copied.result.pixels_sha256
        )
        assert artifacts.of_trial(records.study.key, row.number, "w").load_features()["fid"].shape == (4, 3)
        assert trial.state == (TrialState.PRUNED if copied.params is None else TrialState.COMPLETE)
        if copied.params is not None:
            assert (trial.params, trial.value) == (copied.params, copied.result.objectives["objective"])
    (kept,) = [each.file for each in stored_renders.load_renders(records, rows[1]) if each.file is not None]
    assert artifacts.store.read(kept) == b"a picture"
    assert kept.endswith("/trial-1-prompt-01-seed-0.png")
    assert rows[1].contact_sheet is not None
    assert artifacts.for_optuna.open_reader(rows[1].contact_sheet).read() == b"a picture"
    (meta,) = get_all_artifact_meta(optunas.trials[1], storage=database.storage)
    assert (meta.artifact_id, meta.filename) == (rows[1].contact_sheet, "trial 1.jpg")


def test_a_study_is_not_begun_twice(database: Database, tmp_path: Path) -> None:
    begin(database.url, tmp_path)
    before = stored(database, tmp_path)
    with pytest.raises(StudyExistsError):
        begin(database.url, tmp_path)
    assert stored(database, tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_killed_at_any_moment_it_leaves_nothing_or_all(database: Database, tmp_path: Path) -> None:
    """SIGKILL while the trials are copied; the next start ends with what one without interruption makes."""
    moments = random.Random(0)
    left: list[int] = []
    while len(left) < 3 and not stored_studies.list_studies(database):
        database.close()  # no connection is shared with the child
        wanted = moments.randrange(1, COUNT)
        child = os.fork()
        if child == 0:
            try:
                begin(database.url, tmp_path)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while optuna_trials(database) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left.append(optuna_trials(database))
        if not stored_studies.list_studies(database):  # else it was faster than the signal
            with database.engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT count(*) FROM mergetune_trials").scalar() == 0
    assert any(left)
    if not stored_studies.list_studies(database):
        begin(database.url, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    url = f"sqlite:///{other}/whole.db"
    begin(url, other)
    whole = open_database(url)
    assert stored(database, tmp_path) == stored(whole, other)
    whole.close()
    names = {file.name.partition("/")[2].partition("/")[0] for file in files_of(tmp_path).store.files("studies/")}
    assert names == {
        stored_studies.open_study(database, "new").study.key
    }  # nothing is left of the starts that were cut off


def files_of(folder: Path) -> Artifacts:
    return Artifacts.existing("", folder / "artifacts")


def optuna_trials(database: Database) -> int:
    with database.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM trials").scalar() or 0)
