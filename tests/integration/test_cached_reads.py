"""Cached trials say what the database says, whatever happens in between, and ask for less."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_study import store_study

from studies.recipe.recipe import Recipe
from studies.records import stored_trials
from studies.records.cached_reads import CachedTrials
from studies.records.database import Database, open_database
from studies.records.failures import Failure
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, TrialResult

NAMES = itertools.count()
BLACK = Failure(kind="degenerate", reason="degenerate: 1 of 1 images is black")
RESULT = TrialResult(
    objectives={"objective": 1.0},
    image_scores={"sharpness": (1.0,)},
    set_scores={},
    pixels_sha256=("0" * 64,),
    seconds={},
    machine={},
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('cached')}/s.db")
    yield opened
    opened.close()


def a_study(database: Database) -> StudyRecords:
    return store_study(database, f"s{next(NAMES)}", lambda _: {}, trials=0)


def recipe_of(database: Database) -> Recipe:
    records = store_study(database, f"r{next(NAMES)}", lambda _: {"sharpness": (1.0,), "contrast": (1.0,)}, trials=1)
    return stored_trials.load_trials(records)[0].recipe


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["begin", "finish", "fail", "gains"]), st.integers(0, 5), st.booleans()), max_size=25
    )
)
@settings(max_examples=25, deadline=None)
def test_it_is_what_a_fresh_look_finds(database: Database, steps: list[tuple[str, int, bool]]) -> None:
    records, recipe = a_study(database), recipe_of(database)
    cached = CachedTrials(records)
    for what, number, look in steps:
        row = stored_trials.load_trial(records, number)
        if what == "begin" and (row is None or row.state == "running"):
            stored_trials.start_trial(
                records, number, Origin("sampler", "random"), recipe, "w", 1 if row is None else row.attempt + 1
            )
        elif what == "finish" and row is not None:
            stored_trials.finish_trial(records, number, "w", RESULT)
        elif what == "fail" and row is not None:
            stored_trials.fail_trial(records, number, "w", BLACK)
        elif what == "gains" and row is not None and row.state == "complete":
            stored_trials.store_gains(records, row, {"objective": Gain(value=1.0, low=None, high=None, parent="A")})
        if look:
            assert cached.trials() == stored_trials.load_trials(records)
    assert cached.trials() == stored_trials.load_trials(records)


def test_settled_trials_are_not_read_again(database: Database) -> None:
    records, recipe = a_study(database), recipe_of(database)
    for number in range(5):
        stored_trials.start_trial(records, number, Origin("sampler", "random"), recipe, "w")
        if number < 4:
            stored_trials.fail_trial(records, number, "w", BLACK)
    cached = CachedTrials(records)
    cached.trials()
    with database.write() as connection:  # what is settled may vanish, and is known all the same
        connection.execute(
            sa.text("DELETE FROM mergetune_trials WHERE number < 4 AND study_id = :id"), {"id": records.study.id}
        )
    assert [row.number for row in cached.trials()] == [0, 1, 2, 3, 4]
