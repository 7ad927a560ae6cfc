"""What we write to Optuna's tables is what Optuna and its dashboard would have written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import plotly.graph_objects as go
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.trial import Trial
from optuna_dashboard import get_note, save_note, save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from real_databases import new_postgresql_url

from studies.records.database import Database, open_database
from studies.records.optuna_tables import (
    NOTE_BEGINS,
    NOTE_ENDS,
    NOTE_LETTERS,
    NOTE_PIECES,
    TRIAL_NAME,
    store_figures,
    store_note,
    store_params,
    store_part_of_study_note,
    store_trial_names,
)

RATIOS = {
    "IN00": FloatDistribution(0.0, 1.0),
    "M00": FloatDistribution(-0.5, 1.5),
    "frozen": FloatDistribution(0.3, 0.3),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = new_postgresql_url() if request.param == "postgresql" else f"sqlite:///{tmp_path}/study.db"
    found = open_database(url)
    yield found
    found.close()


def begun(database: Database) -> optuna.Study:
    return optuna.create_study(storage=database.storage, study_name="s")


def rows(database: Database, table: str, trial: Trial) -> list[tuple[object, ...]]:
    columns = "param_name, param_value, distribution_json"
    query = f"SELECT {columns} FROM {table} WHERE trial_id = {trial._trial_id} ORDER BY 1"
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def test_parameters_are_stored_as_optuna_stores_them_and_learned_from(database: Database) -> None:
    study = begun(database)
    suggested = study.ask()
    params = {name: suggested.suggest_float(name, row.low, row.high) for name, row in RATIOS.items()}
    ours = study.ask()
    store_params(database, ours._trial_id, params, RATIOS)
    assert rows(database, "trial_params", ours) == rows(database, "trial_params", suggested)
    for trial in (suggested, ours):
        study.tell(trial.number, 1.0)
    first, second = optuna.load_study(study_name="s", storage=database.storage).trials
    assert (first.params, first.distributions) == (second.params, second.distributions)
    assert second.params == params


@pytest.mark.parametrize("length", [0, 1, NOTE_LETTERS, NOTE_LETTERS + 1, 3 * NOTE_LETTERS - 1])
def test_a_note_is_read_by_the_dashboard_whatever_was_there_before(database: Database, length: int) -> None:
    study = begun(database)
    trial, other = study.ask(), study.ask()
    save_note(other, "of another trial")
    for body in ("x" * 2 * NOTE_LETTERS, ("grün 'and' \"100 %\"\n" * length)[:length], "short"):
        store_note(database, study._study_id, trial._trial_id, body)
        assert get_note(trial) == body
    assert get_note(other) == "of another trial"
    attributes = database.storage.get_study_system_attrs(study._study_id)
    assert attributes[f"dashboard:{trial._trial_id}:note_ver"] == 3
    save_note(trial, "by hand")  # and the other way round
    assert get_note(trial) == "by hand"


def test_workers_that_describe_one_trial_at_once_do_not_disturb_each_other(database: Database) -> None:
    study = begun(database)
    trial = study.ask()
    bodies = [letter * 3 * NOTE_LETTERS for letter in "abcd"]
    with ThreadPoolExecutor() as pool:
        for _ in range(8):
            list(pool.map(lambda body: store_note(database, study._study_id, trial._trial_id, body), bodies))
            assert get_note(trial) in bodies


def test_a_note_beyond_all_measure_is_refused_and_changes_nothing(database: Database) -> None:
    study = begun(database)
    trial = study.ask()
    store_note(database, study._study_id, trial._trial_id, "before")
    with pytest.raises(ValueError, match="a note of"):
        store_note(database, study._study_id, trial._trial_id, "x" * (NOTE_LETTERS * NOTE_PIECES + 1))
    assert get_note(trial) == "before"


class TestOurPartOfAStudyNote:
    @pytest.mark.parametrize("before", ["", "seen by hand", "# Portraits\n\n- one\n- two\n" * 200])
    def test_what_people_wrote_stays_below_it(self, before: str, database: Database) -> None:
        study = begun(database)
        if before:
            save_note(study, before)
        for text in ("first", "second\n\n- of two lines"):
            store_part_of_study_note(database, study._study_id, text)
            parts = [NOTE_BEGINS, text, NOTE_ENDS, *([before.strip("\n")] if before else [])]
            assert get_note(study) == "\n\n".join(parts)

    def test_what_people_wrote_above_it_stays(self, database: Database) -> None:
        study = begun(database)
        store_part_of_study_note(database, study._study_id, "first")
        save_note(study, f"above\n\n{get_note(study)}\n\nbelow")
        store_part_of_study_note(database, study._study_id, "second")
        assert get_note(study) == "\n\n".join([NOTE_BEGINS, "second", NOTE_ENDS, "above", "below"])

    def test_a_part_whose_end_was_removed_is_kept_as_theirs(self, database: Database) -> None:
        study = begun(database)
        save_note(study, f"{NOTE_BEGINS}\n\nfirst\n\nmine")
        store_part_of_study_note(database, study._study_id, "second")
        assert get_note(study).endswith("first\n\nmine")

    def test_a_part_that_is_there_makes_no_new_version(self, database: Database) -> None:
        study = begun(database)
        for _ in range(2):
            store_part_of_study_note(database, study._study_id, "x")
        assert database.storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"] == 1

    def test_a_note_of_unusual_length_is_left_as_it_is(self, database: Database) -> None:
        study = begun(database)
        long = "x" * (NOTE_LETTERS * NOTE_PIECES + 5)
        save_note(study, long)
        store_part_of_study_note(database, study._study_id, "x")
        assert get_note(study) == long

    def test_the_notes_of_trials_are_not_touched(self, database: Database) -> None:
        study = begun(database)
        trial = study.ask()
        store_note(database, study._study_id, trial._trial_id, "of a trial")
        store_part_of_study_note(database, study._study_id, "x")
        assert get_note(trial) == "of a trial"


def test_figures_replace_those_before_and_no_others(database: Database) -> None:
    study = begun(database)
    other = save_plotly_graph_object(study, go.Figure(), graph_object_id="of-somebody-else")
    long = json.dumps({"data": [], "layout": {"title": {"text": "x" * 3 * NOTE_LETTERS}}})
    store_figures(database, study._study_id, "mergetune-", {"0": long, "1": "{}"})
    store_figures(database, study._study_id, "mergetune-", {"0": "{}", "2": long})
    found = get_plotly_graph_objects(database.storage.get_study_system_attrs(study._study_id))
    assert found.keys() == {other, "mergetune-0", "mergetune-2"}
    assert (found["mergetune-0"], found["mergetune-2"]) == ("{}", long)


def test_trials_without_a_name_get_one_and_others_keep_theirs(database: Database) -> None:
    study = begun(database)
    for number in range(3):
        trial = study.ask()
        if number == 1:
            trial.set_user_attr(TRIAL_NAME, "as it was")
        study.tell(trial, 0.0)
    for _ in range(2):
        store_trial_names(database, study._study_id, {0: "parent A", 1: "uniform 0.5", 2: "search 2", 9: "no trial"})
    read = optuna.load_study(study_name=study.study_name, storage=database.storage).trials
    assert [trial.user_attrs for trial in read] == [{"name": name} for name in ("parent A", "as it was", "search 2")]
