"""What a study asks and finds, stored and read back: on real SQLite files and a real PostgreSQL."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from real_databases import new_postgresql_url

from search_spaces.blocks import Architecture, places
from studies.errors import StudyExistsError, StudyMissingError
from studies.recipe.recipe import BakedVae, LoraUse, Operation, Parent, Recipe, Step, canonical_values
from studies.records import stored_renders, stored_studies, stored_trials, tables, workers
from studies.records.batch_limits import BatchLimit
from studies.records.control import StudyControl, set_priority, set_status, status_of, study_controls
from studies.records.database import Database, now, open_database
from studies.records.failures import Failure
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, ParentFile, StoredTrial, TrialResult
from studies.spec.search import BudgetSettings
from studies.spec.study import StudySpec, parse_spec
from studies.system.processes import is_running, process_identity

NUMBERS = itertools.count()
PARENTS = (
    ParentFile(letter="A", path=Path("/models/a.safetensors"), sha256="a" * 64, bytes=2**40, mtime_ns=2**62),
    ParentFile(letter="B", path=Path("/models/ä b.safetensors"), sha256="b" * 64, bytes=1, mtime_ns=0),
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "postgresql":
        url = new_postgresql_url()
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('results')}/study.db"
    opened = open_database(url)
    yield opened
    opened.close()


def make_spec(name: str, **changes: Any) -> StudySpec:
    text = f"""
        study: {name}
        parents: [/models/a.safetensors, /models/b.safetensors]
        suite: {{prompts: [a cat, a dog]}}
        scorers: {{sharpness: , contrast: }}
    """
    return parse_spec(text, base_dir=Path("/")).model_copy(update=changes)


def new_study(database: Database) -> StudyRecords:
    return stored_studies.create_study(database, make_spec(f"s{next(NUMBERS)}"), PARENTS, ["maximize"], ["objective"])


@pytest.fixture
def records(database: Database) -> StudyRecords:
    return new_study(database)


@pytest.fixture(scope="module")
def long_records(database: Database) -> StudyRecords:
    """One study for all examples of a property; each takes a number of its own."""
    return new_study(database)


def recipe(ratio: float = 0.5) -> Recipe:
    rows = dict.fromkeys(places(Architecture.SD15), (0.1,)) | {"IN00": (ratio,)}
    return Recipe(
        architecture="sd15",
        parents=tuple(Parent(letter=file.letter, name=file.path.stem, sha256=file.sha256) for file in PARENTS),
        steps=(Step(operation=Operation(method="weighted_sum", inputs=("A", "B")), values=canonical_values(rows)),),
        loras=(LoraUse(name="style", sha256="c" * 64, weights=tuple((place, -0.5) for place in sorted(rows))),),
        vae=BakedVae(name="vae", sha256="d" * 64),
    )


RESULT = TrialResult(
    objectives={"objective": 1.5},
    image_scores={"sharpness": (0.1, 0.2), "contrast": (3.0, 4.0)},
    set_scores={"fid": 12.5},
    pixels_sha256=("1" * 64, "2" * 64),
    files={0: "renders/1/0/0000.png", 1: "renders/1/0/0001.png"},
    seconds={"merge": 0.1, "denoise": 2.0},
    machine={"device": "cpu", "threads": "1"},
    batch_limits=(
        BatchLimit(component="unet", size=(64, 32), images=2),
        BatchLimit(component="vae", size=(64, 32), images=1),
    ),
    contact_sheet="artifact",
)


def begin(records: StudyRecords, number: int = 0, worker: str = "w") -> bool:
    return stored_trials.start_trial(records, number, Origin("uniform", "0.5"), recipe(), worker)


def reload(records: StudyRecords, number: int = 0) -> StoredTrial:
    row = stored_trials.load_trial(records, number)
    assert row is not None
    return row


def count(database: Database, table: sa.Table) -> int:
    with database.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


# ------------------------------------------------------------------------------------------ studies


def test_a_study_is_read_back_as_it_was_stored(database: Database) -> None:
    spec = make_spec(f"s{next(NUMBERS)}")
    before = now()
    records = stored_studies.create_study(database, spec, PARENTS, ["maximize"], ["objective"])
    assert records == stored_studies.open_study(database, spec.study)
    assert records.study.spec == spec
    assert records.study.suite_digest == spec.suite.digest
    assert records.study.parents == PARENTS
    assert records.study.software == stored_studies.software_versions()
    assert records.study.software["optuna"] == optuna.__version__
    assert before <= records.study.created_at <= now()
    assert (records.study.status, records.study.priority) == ("active", 0)


def test_optuna_knows_the_study_with_its_directions_and_names(database: Database) -> None:
    spec = make_spec(f"s{next(NUMBERS)}")
    stored_studies.create_study(database, spec, PARENTS, ["maximize", "minimize"], ["sharpness", "fid"])
    study = optuna.load_study(study_name=spec.study, storage=database.storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["sharpness", "fid"]


def test_a_taken_name_is_refused_with_the_way_to_go_on(records: StudyRecords) -> None:
    with pytest.raises(StudyExistsError, match=f'mergetune study resume "{records.study.name}"'):
        stored_studies.require_new(records.database, records.study.name)
    with pytest.raises(StudyExistsError, match="exists in this database"):
        stored_studies.create_study(records.database, records.study.spec, PARENTS, ["maximize"], ["objective"])


def test_what_a_start_that_was_cut_off_left_in_optuna_does_no_harm(database: Database) -> None:
    spec = make_spec(f"s{next(NUMBERS)}")
    optuna.create_study(storage=database.storage, study_name=spec.study, directions=["minimize", "minimize"])
    stored_studies.create_study(database, spec, PARENTS, ["maximize"], ["objective"])
    study = optuna.load_study(study_name=spec.study, storage=database.storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"]


def test_a_study_that_someone_made_with_optuna_is_not_taken_over(database: Database) -> None:
    spec = make_spec(f"s{next(NUMBERS)}")
    theirs = optuna.create_study(storage=database.storage, study_name=spec.study)
    theirs.ask()
    with pytest.raises(StudyExistsError, match="did not make"):
        stored_studies.create_study(database, spec, PARENTS, ["maximize"], ["objective"])
    assert len(optuna.load_study(study_name=spec.study, storage=database.storage).trials) == 1
    with pytest.raises(StudyMissingError):
        stored_studies.open_study(database, spec.study)


def test_a_missing_study_is_told_with_those_there_are(records: StudyRecords) -> None:
    with pytest.raises(StudyMissingError, match=f"'absent'.*{records.study.name}"):
        stored_studies.open_study(records.database, "absent")


def test_an_empty_database_says_that_it_holds_no_study(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/empty.db")
    assert stored_studies.list_studies(database) == []
    with pytest.raises(StudyMissingError, match="no study yet"):
        stored_studies.open_study(database, "absent")
    database.close()


def test_studies_are_listed_in_the_order_they_were_begun(database: Database) -> None:
    first, second = new_study(database), new_study(database)
    assert stored_studies.list_studies(database)[-2:] == [first, second]


def test_the_budget_is_the_only_thing_that_set_budget_changes(records: StudyRecords) -> None:
    changed = stored_studies.set_budget(records, BudgetSettings(trials=7, minutes=1.5))
    assert (changed.study.spec.budget.trials, changed.study.spec.budget.minutes) == (7, 1.5)
    assert changed == stored_studies.open_study(records.database, records.study.name)
    assert changed.study.spec.model_copy(update={"budget": records.study.spec.budget}) == records.study.spec
    assert changed.study.suite_digest == records.study.suite_digest


def test_what_is_asked_of_a_study_is_known_to_all_and_can_be_taken_back(records: StudyRecords) -> None:
    other = new_study(records.database)
    assert status_of(records) == "active"
    set_status(records, "paused")
    set_priority(records, 7)
    assert status_of(records) == "paused"
    stored = stored_studies.open_study(records.database, records.study.name).study
    assert (stored.status, stored.priority) == ("paused", 7)
    assert status_of(other) == "active"
    assert [row for row in study_controls(records.database) if row.study_id in {records.study.id, other.study.id}] == [
        StudyControl(study_id=records.study.id, name=records.study.name, status="paused", priority=7),
        StudyControl(study_id=other.study.id, name=other.study.name, status="active", priority=0),
    ]
    set_status(records, "active")
    assert status_of(records) == "active"


# ------------------------------------------------------------------------------------------- trials


def test_a_begun_trial_names_its_worker_and_recipe(records: StudyRecords) -> None:
    before = now()
    begin(records, 3, "worker-1")
    row = reload(records, 3)
    assert (row.number, str(row.origin), row.worker_id, row.state) == (3, "uniform 0.5", "worker-1", "running")
    assert row.recipe == recipe()
    assert before <= row.started_at <= now()
    assert (row.finished_at, row.reason, row.contact_sheet) == (None, None, None)
    assert (row.objectives, row.gains, row.seconds, row.machine) == ({}, {}, {}, {})


def test_trials_are_listed_by_number_and_only_those_of_the_study(records: StudyRecords) -> None:
    other = new_study(records.database)
    begin(other, 0)
    for number in (2, 0, 1):
        begin(records, number)
    assert [trial.number for trial in stored_trials.load_trials(records)] == [0, 1, 2]
    assert stored_trials.load_trial(records, 5) is None


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
sides = st.integers(64, 4096)
limits = st.builds(
    BatchLimit, component=st.sampled_from(["unet", "vae"]), size=st.tuples(sides, sides), images=st.integers(1, 64)
)


@st.composite
def trial_results(draw: st.DrawFn) -> TrialResult:
    items = 2  # of the study's suite
    per_item = st.tuples(*[finite] * items)
    scorers = draw(st.lists(text, min_size=2, max_size=4, unique=True))
    return TrialResult(
        objectives=draw(st.dictionaries(text, finite, min_size=1, max_size=3)),
        image_scores={name: draw(per_item) for name in scorers[1:]},
        set_scores={scorers[0]: draw(finite)},
        pixels_sha256=draw(st.tuples(*[digests] * items)),
        files=draw(st.dictionaries(st.integers(0, items - 1), text)),
        seconds=draw(st.dictionaries(text, finite)),
        machine=draw(st.dictionaries(text, text)),
        batch_limits=draw(st.lists(limits, max_size=3).map(tuple)),
        contact_sheet=draw(st.none() | digests),
    )


@given(result=trial_results())
@settings(max_examples=20, deadline=None)
def test_a_result_is_read_back_exactly(long_records: StudyRecords, result: TrialResult) -> None:
    number = next(NUMBERS)
    begin(long_records, number)
    stored_trials.finish_trial(long_records, number, "w", result)
    row = reload(long_records, number)
    assert row.state == "complete"
    assert row.finished_at is not None
    assert row.finished_at >= row.started_at
    assert (row.objectives, row.seconds, row.machine, row.batch_limits, row.contact_sheet) == (
        dict(result.objectives),
        dict(result.seconds),
        dict(result.machine),
        result.batch_limits,
        result.contact_sheet,
    )
    assert list(row.objectives) == list(result.objectives)  # in the study's order
    assert stored_renders.load_scores(long_records, row) == (dict(result.image_scores), dict(result.set_scores))
    renders = stored_renders.load_renders(long_records, row)
    assert [render.item for render in renders] == list(range(len(result.pixels_sha256)))
    assert tuple(render.pixels_sha256 for render in renders) == result.pixels_sha256
    assert {render.item: render.file for render in renders if render.file is not None} == dict(result.files)


@given(
    gains=st.dictionaries(
        text,
        st.builds(Gain, value=finite, low=st.none() | finite, high=st.none() | finite, parent=st.sampled_from("AB")),
    )
)
@settings(max_examples=20, deadline=None)
def test_gains_are_read_back_exactly(long_records: StudyRecords, gains: dict[str, Gain]) -> None:
    number = next(NUMBERS)
    begin(long_records, number)
    stored_trials.store_gains(long_records, reload(long_records, number), gains)
    assert reload(long_records, number).gains == gains


@pytest.mark.parametrize(
    "broken",
    [
        {"image_scores": {"sharpness": (0.1, None)}},  # refused by the last of the three tables
        {"pixels_sha256": ("1" * 64, None)},
    ],
)
def test_a_result_is_stored_whole_or_not_at_all(records: StudyRecords, broken: dict[str, Any]) -> None:
    begin(records)
    before = reload(records)
    rows = count(records.database, tables.renders), count(records.database, tables.scores)
    damaged = TrialResult(**({name: getattr(RESULT, name) for name in RESULT.__slots__} | broken))
    with pytest.raises(sa.exc.IntegrityError):
        stored_trials.finish_trial(records, 0, "w", damaged)
    assert reload(records) == before
    assert (count(records.database, tables.renders), count(records.database, tables.scores)) == rows
    stored_trials.finish_trial(records, 0, "w", RESULT)  # and can still be stored
    assert reload(records).state == "complete"


def test_a_failed_trial_keeps_its_reason_and_the_kind_of_it_whatever_the_words(records: StudyRecords) -> None:
    begin(records)
    failure = Failure(kind="scorer", reason="out of memory: no, only the scorer was wrong")
    stored_trials.fail_trial(records, 0, "w", failure)
    row = reload(records)
    assert (row.state, row.failure, row.reason) == ("failed", failure.kind, failure.reason)
    assert row.finished_at is not None
    assert stored_renders.load_renders(records, row) == []


def test_a_running_trial_may_be_taken_over_and_a_finished_one_never(records: StudyRecords) -> None:
    assert begin(records, 0, "dead")
    assert begin(records, 0, "alive")
    assert not stored_trials.finish_trial(records, 0, "dead", RESULT)
    assert stored_trials.finish_trial(records, 0, "alive", RESULT)
    before = reload(records), count(records.database, tables.renders), count(records.database, tables.scores)
    assert not begin(records, 0, "late")
    assert (reload(records), count(records.database, tables.renders), count(records.database, tables.scores)) == before


def test_dropping_files_returns_them_once_and_keeps_the_digests(records: StudyRecords) -> None:
    for number in (0, 1):
        begin(records, number)
        stored_trials.finish_trial(records, number, "w", RESULT)
    row = reload(records)
    assert sorted(stored_renders.drop_files(records, row)) == sorted(RESULT.files.values())
    assert stored_renders.drop_files(records, row) == []
    renders = stored_renders.load_renders(records, row)
    assert [render.file for render in renders] == [None, None]
    assert tuple(render.pixels_sha256 for render in renders) == RESULT.pixels_sha256
    kept = stored_renders.load_renders(records, reload(records, 1))
    assert [render.file for render in kept] == list(RESULT.files.values())


# ------------------------------------------------------------------------------------------ workers


def put_worker(database: Database, *, host: str, pid: int, seen_at: float, process: str | None = None) -> str:
    worker = f"w{next(NUMBERS)}"
    row = {"id": worker, "host": host, "pid": pid, "process": process, "seen_at": seen_at}
    with database.write() as connection:
        connection.execute(tables.workers.insert().values(row))
    return worker


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_this_process_is_alive_until_it_is_removed(database: Database) -> None:
    worker = workers.register_worker(database)
    assert worker in workers.live_workers(database)
    workers.remove_worker(database, worker)
    assert worker not in workers.live_workers(database)


def test_workers_of_one_process_are_told_apart(database: Database) -> None:
    one, other = workers.register_worker(database), workers.register_worker(database)
    assert {one, other} <= workers.live_workers(database)
    workers.remove_worker(database, one)
    assert workers.live_workers(database) & {one, other} == {other}
    workers.remove_worker(database, other)


def test_a_process_that_is_gone_is_dead_however_lately_it_was_seen(database: Database) -> None:
    worker = put_worker(database, host=socket.gethostname(), pid=dead_pid(), seen_at=now())
    assert worker not in workers.live_workers(database)


@pytest.mark.parametrize("known", [True, False])
def test_a_process_here_is_alive_however_long_it_was_not_seen(database: Database, known: bool) -> None:
    """A stopped or swapped-out worker still holds its trial; and whoever set the clock has not killed it."""
    parent = os.getppid()
    identity = process_identity(parent) if known else None
    for seen_at in (0.0, now() - 86400, now() + 86400):
        worker = put_worker(database, host=socket.gethostname(), pid=parent, seen_at=seen_at, process=identity)
        assert worker in workers.live_workers(database)


def test_a_process_that_got_a_dead_workers_number_is_not_that_worker(database: Database) -> None:
    """In a container that starts again, the worker has the same number every time."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        other = process_identity(child.pid)  # of another time: this process has run for long
        child.communicate()
    assert other is not None
    assert other != process_identity(os.getpid())
    worker = put_worker(database, host=socket.gethostname(), pid=os.getpid(), seen_at=now(), process=other)
    assert worker not in workers.live_workers(database)


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is found in /proc")
def test_a_zombie_is_dead_and_its_identity_was_the_same_until_then() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    assert identity is not None
    assert is_running(child.pid, identity)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet taken note of
    assert not is_running(child.pid, identity)
    child.communicate()
    assert not is_running(child.pid, identity)


def test_a_worker_whose_entry_was_removed_is_there_again_with_its_next_sign_of_life(database: Database) -> None:
    worker = workers.register_worker(database)
    workers.remove_worker(database, worker)
    workers.sign_of_life(database, worker)
    assert worker in workers.live_workers(database)
    workers.remove_worker(database, worker)


def test_on_a_server_a_machine_of_the_same_name_is_another_machine(database: Database) -> None:
    """Containers and cloned machines may be called alike, and each sees its own processes alone."""
    other = "00000000-0000-0000-0000-000000000000 pid:[1] 77"
    for seen_at, alive in (
        (now(), database.url.startswith("postgresql")),
        (now() - workers.STALE_SECONDS - 1, False),
    ):
        worker = put_worker(database, host=socket.gethostname(), pid=os.getpid(), seen_at=seen_at, process=other)
        assert (worker in workers.live_workers(database)) is alive


def test_a_worker_elsewhere_is_alive_as_long_as_it_gives_signs_of_life(database: Database) -> None:
    fresh = put_worker(database, host="elsewhere", pid=1, seen_at=now() - workers.STALE_SECONDS / 2)
    stale = put_worker(database, host="elsewhere", pid=1, seen_at=now() - workers.STALE_SECONDS - 1)
    assert workers.live_workers(database) & {fresh, stale} == {fresh}
    ahead = put_worker(database, host="elsewhere", pid=1, seen_at=now() + workers.STALE_SECONDS + 60)
    assert ahead not in workers.live_workers(database)  # seen before the clock was set back, and not since
    workers.sign_of_life(database, stale)
    assert {fresh, stale} <= workers.live_workers(database)
