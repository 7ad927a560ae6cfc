"""Room in an artifact store: what is removed, what stays, and that the database refers to nothing that is gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import Call, caller, enter
from stored_study import store_study

from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials
from studies.files.artifacts import FEATURES, SHEET, Artifacts, sheet_attributes, stored_name
from studies.records import stored_renders, stored_trials, tables
from studies.records.database import open_database
from studies.records.kept_renders import render_name
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords

TRIALS, ITEMS, SIZE = 6, 4, 100  # SIZE in bytes
DEAD = "dead"  # a worker


@pytest.fixture
def mergetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    enter(tmp_path, monkeypatch)
    return caller(monkeypatch, capsys, "study")


@pytest.fixture
def stored(tmp_path: Path) -> tuple[StudyRecords, Artifacts]:
    """Trials of worker `w` that keep everything, leftovers of a dead worker, and a trial that is worked on."""
    database = open_database(f"sqlite:///{tmp_path}/mergetune.db")

    def score(params: Mapping[str, float]) -> Mapping[str, tuple[float, ...]]:
        return {name: (sum(params.values()),) * ITEMS for name in ("sharpness", "contrast")}

    records = store_study(database, "cats", score, trials=TRIALS, failed=(4,))
    artifacts = Artifacts.beside(database.url)
    trials = stored_trials.load_trials(records)
    for trial in trials:
        mine, left = (
            artifacts.of_trial(records.study.key, trial.number, "w"),
            artifacts.of_trial(records.study.key, trial.number, DEAD),
        )
        left.store.write(left.name(SHEET), bytes(SIZE))
        if trial.state == "failed":
            continue
        for file in (SHEET, FEATURES, *(render_name(trial.number, str(item)) for item in range(ITEMS))):
            mine.store.write(mine.name(file), bytes(SIZE))
        with database.write() as connection:
            connection.execute(tables.trials.update().where(tables.trials.c.id == trial.id).values(sheet=mine.sheet_id))
            for item in range(ITEMS):
                which = (tables.renders.c.trial_id == trial.id) & (tables.renders.c.item == item)
                connection.execute(
                    tables.renders.update().where(which).values(file=mine.name(render_name(trial.number, str(item))))
                )
    stored_trials.start_trial(records, TRIALS, Origin("sampler", "gp"), trials[2].recipe, "busy")
    busy = artifacts.of_trial(records.study.key, TRIALS, "busy")
    busy.store.write(busy.name(render_name(TRIALS, "0")), bytes(SIZE))
    artifacts.store.write("studies/another/0-w/sheet.jpg", bytes(SIZE))
    artifacts.store.write("uploads/12345678-1234-4321-8765-0123456789ab", bytes(SIZE))
    return records, artifacts


def numbers_with_renders(records: StudyRecords, artifacts: Artifacts) -> set[int]:
    """Of complete trials, after looking whether everything that the database refers to is there."""
    names = {file.name for file in artifacts.store.files("")}
    found = set()
    for trial in stored_trials.load_trials(records):
        if trial.state == "complete":
            assert trial.contact_sheet is not None
            mine = artifacts.of_trial(records.study.key, trial.number, trial.worker_id)
            files = {each.file for each in stored_renders.load_renders(records, trial) if each.file is not None}
            assert names >= files | {stored_name(trial.contact_sheet), mine.name(FEATURES)}
            found |= {trial.number} if files else set()
    return found


@pytest.mark.parametrize("keep", ["best", "none"])
def test_renders_and_leftovers_go_and_nothing_else(
    keep: str, mergetune: Call, stored: tuple[StudyRecords, Artifacts]
) -> None:
    records, artifacts = stored
    rows = stored_trials.load_trials(records)
    before = {file.name for file in artifacts.store.files("")}
    best = {row.number for row in best_trials(rows, Objective.of_study(records.study))}
    wanted = set() if keep == "none" else {0, 1} | best
    dropped = {row.number for row in rows if row.state == "complete"} - wanted
    final = [artifacts.of_final(records.study.key).name(render_name(number, "0")) for number in (0, 1, 5)]
    for name in final:
        artifacts.store.write(name, bytes(SIZE))
    before |= set(final)
    renders, orphans = ITEMS * len(dropped) + (len(final) if keep == "none" else 0), TRIALS
    held = f", {len(final)} of the final," if keep == "none" else ""
    told = f"{ITEMS * len(dropped)} renders of {len(dropped)} trials{held} and {orphans} files that belong to no trial"
    size = f"{(renders + orphans) * SIZE / 1e6:,.1f} MB in {artifacts.location}"
    said = mergetune("prune-artifacts", "cats", "--keep", keep, "--dry-run", code=0).out
    assert said.split() == f"would remove {told}: {size}".split()
    assert {file.name for file in artifacts.store.files("")} == before
    assert mergetune("prune-artifacts", "cats", "--keep", keep, code=0).out.split() == f"removed {told}: {size}".split()
    assert numbers_with_renders(records, artifacts) == wanted
    gone = before - {file.name for file in artifacts.store.files("")}
    assert len(gone) == renders + orphans
    assert all(name.startswith(f"studies/{records.study.key}/") for name in gone)
    assert not any(f"/{TRIALS}-busy/" in name for name in gone)
    assert "removed 0 renders of 0 trials and 0 files" in mergetune("prune-artifacts", "cats", "--keep", keep).out


def test_a_sheet_is_known_to_optuna_by_a_name_that_leads_to_its_file(
    stored: tuple[StudyRecords, Artifacts],
) -> None:
    records, artifacts = stored
    trial = stored_trials.load_trials(records)[0]
    assert trial.contact_sheet is not None
    assert list(sheet_attributes(trial.contact_sheet, 0)) == [f"artifacts:{trial.contact_sheet}"]
    assert artifacts.for_optuna.open_reader(trial.contact_sheet).read() == bytes(SIZE)
