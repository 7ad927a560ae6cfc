"""Studies as wholes in real databases: what another process does meanwhile, and what is gone already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest
from PIL import Image
from real_databases import new_postgresql_url
from stored_study import store_study

from optimizer.errors import FinalError
from optimizer.system.retry import Retry
from optimizer.work.final_claim import holding_final
from studies.errors import StudyBusyError, StudyExistsError, StudyMissingError
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.stored_studies import list_studies, open_study, reread, set_budget
from studies.records.study_records import StudyRecords
from studies.records.whole_studies import clone_study, delete_study, rename_study


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    mean = float(np.mean(list(params.values())))
    return {"sharpness": (mean, mean, 1.0, 2.0), "contrast": (0.1, 0.2, 0.3, mean)}


@pytest.fixture(params=["sqlite", "postgresql"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudyRecords]:
    url = f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else new_postgresql_url()
    database = open_database(url)
    yield store_study(database, "small", score, trials=4)
    database.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts.beside(f"sqlite:///{tmp_path}/study.db")


def names(records: StudyRecords) -> tuple[list[str], list[str]]:
    """Return the names of all studies, ours and Optuna's."""
    ours = [each.study.name for each in list_studies(records.database)]
    return ours, optuna.get_all_study_names(storage=records.database.storage)


def test_a_study_that_is_given_its_own_name_keeps_its_pictures(records: StudyRecords, artifacts: Artifacts) -> None:
    study = records.study
    artifacts.save_contact_sheet(study.name, study.key, "best", Image.new("RGB", (8, 8)))
    with pytest.raises(StudyExistsError, match="'small' exists"):
        rename_study(records, artifacts, "small")
    assert artifacts.has_contact_sheet(study.name, study.key, "best")
    renamed = rename_study(records, artifacts, "Small")
    assert artifacts.has_contact_sheet("Small", renamed.study.key, "best")


def test_who_renames_second_renames_the_study_as_it_is_then(records: StudyRecords, artifacts: Artifacts) -> None:
    rename_study(records, artifacts, "one")
    second = rename_study(records, artifacts, "two")
    assert second.study.spec.study == "two"
    assert names(records) == (["two"], ["two"])


def test_a_budget_that_was_set_meanwhile_stays_when_a_study_is_renamed(
    records: StudyRecords, artifacts: Artifacts
) -> None:
    set_budget(records, records.study.spec.budget.model_copy(update={"trials": 50}))
    assert rename_study(records, artifacts, "one").study.spec.budget.trials == 50
    changed = set_budget(records, records.study.spec.budget.model_copy(update={"trials": 60}))
    assert (changed.study.name, changed.study.spec.study, changed.study.spec.budget.trials) == ("one", "one", 60)


def test_who_deletes_after_a_renaming_deletes_all_of_it(records: StudyRecords, artifacts: Artifacts) -> None:
    rename_study(records, artifacts, "one")
    delete_study(records, artifacts)
    assert names(records) == ([], [])
    with pytest.raises(StudyMissingError, match="'small' was deleted meanwhile"):
        delete_study(records, artifacts)
    with pytest.raises(StudyMissingError, match="'small' was deleted meanwhile"):
        rename_study(records, artifacts, "two")


def test_what_the_dashboard_deleted_is_not_missed(records: StudyRecords, artifacts: Artifacts) -> None:
    optuna.delete_study(study_name="small", storage=records.database.storage)
    with pytest.raises(StudyMissingError, match="were deleted in the dashboard"):
        rename_study(records, artifacts, "one")
    assert open_study(records.database, "small").study.name == "small"
    delete_study(records, artifacts)
    assert names(records) == ([], [])


def test_a_study_whose_final_is_held_is_neither_deleted_nor_renamed(
    records: StudyRecords, artifacts: Artifacts
) -> None:
    retry = Retry()
    with holding_final(records, retry):
        with pytest.raises(StudyBusyError, match="1 worker is at work"):
            delete_study(records, artifacts)
        with pytest.raises(StudyBusyError):
            rename_study(records, artifacts, "one")
        with pytest.raises(FinalError, match="another worker holds the final of study 'small'"):
            holding_final(records, retry).__enter__()
    assert rename_study(records, artifacts, "one").study.name == "one"


def test_a_clone_is_paused_from_the_beginning(records: StudyRecords, artifacts: Artifacts) -> None:
    clone = clone_study(records, artifacts, "copy", trials=False)
    assert clone.study.status == "paused"
    assert reread(records).study.status == "active"
