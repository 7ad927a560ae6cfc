"""The pages of a dashboard that is open: they follow a study while its trials come in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import get_note, save_note
from stored_study import store_study

from optimizer.dashboard.page_refresh import PageRefresh
from optimizer.trial.objective import SINGLE
from studies.files.artifacts import Artifacts
from studies.records.database import Database, open_database
from studies.records.finals import Final, Finalist, store_final
from studies.records.optuna_studies import optuna_study
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import Gain

FIGURE = "dashboard:plot_data:mergetune-0-0:0"


def scores(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    return {"sharpness": (params["IN04"],) * 4, "contrast": (params["M00"],) * 4}


def hold(records: StudyRecords, number: int) -> None:
    gain = Gain(value=0.4, low=0.2, high=0.6, parent="B")
    held_out = dict.fromkeys((SINGLE, "sharpness"), gain)
    winner = Finalist(number=number, origin=Origin("sampler", "random"), held_out=held_out, chosen=True)
    store_final(records, Final(suite_digest="0" * 64, complete_trials=12, finalists=(winner,)))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


@pytest.fixture
def records(database: Database) -> StudyRecords:
    return store_study(database, "one", scores, trials=12, objective={"sharpness": {"weight": 1}})


def page_refresh(records: StudyRecords, **options: float) -> PageRefresh:
    """A refresh with which nothing may go wrong."""

    def complain(what: str, why: str) -> None:
        raise AssertionError(f"{what}: {why}")

    return PageRefresh(records.database, Artifacts.beside(records.database.url), complain, **options)


def attributes(records: StudyRecords) -> dict[str, object]:
    found = optuna_study(records)
    return dict(records.database.storage.get_study_system_attrs(found._study_id))


def test_a_page_is_made_again_when_something_has_changed_and_not_before(records: StudyRecords) -> None:
    refresh = page_refresh(records, rest=0)
    refresh.refresh()
    first = attributes(records)
    assert FIGURE in first
    refresh.refresh()
    assert attributes(records) == first
    hold(records, number=7)
    refresh.refresh()
    assert "the final's choice" in get_note(optuna_study(records))
    assert attributes(records)[FIGURE] != first[FIGURE]


def test_a_page_that_took_long_rests(records: StudyRecords) -> None:
    refresh = page_refresh(records, rest=1_000_000)
    refresh.refresh()
    hold(records, number=7)
    refresh.refresh()
    assert "the final's choice" not in get_note(optuna_study(records))


def test_the_thread_follows_the_study_and_ends(records: StudyRecords) -> None:
    refresh = page_refresh(records, pause_seconds=0.05, rest=0)
    refresh.start()
    try:
        deadline = time.monotonic() + 120
        hold(records, number=7)
        while time.monotonic() < deadline and "the final's choice" not in get_note(optuna_study(records)):
            time.sleep(0.1)
    finally:
        refresh.end()
    assert "the final's choice" in get_note(optuna_study(records))
    assert not refresh.is_alive()


def test_what_people_write_while_it_runs_stays(records: StudyRecords) -> None:
    refresh = page_refresh(records, rest=0)
    refresh.refresh()
    study = optuna_study(records)
    save_note(study, f"{get_note(study)}\n\nI like trial 3.")
    hold(records, number=7)
    refresh.refresh()
    assert get_note(study).endswith("I like trial 3.")
    assert "the final's choice" in get_note(study)


def test_a_study_whose_trials_were_deleted_leaves_the_others(records: StudyRecords) -> None:
    store_study(records.database, "two", scores, trials=3)
    optuna.delete_study(study_name="one", storage=records.database.storage)
    page_refresh(records).refresh()
    assert get_note(optuna.load_study(study_name="two", storage=records.database.storage))
