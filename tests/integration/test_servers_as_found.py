"""PostgreSQL servers and SQLite files as people have them: encodings, rights, replicas, other programs' databases."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import yaml
from command_line import run_program
from demo_study import short_spec
from older_databases import make_older_database
from real_databases import new_postgresql_url
from stored_study import SPEC, store_study

from optimizer.errors import DatabaseLostError
from optimizer.system.retry import Retry
from optimizer.work import heartbeat
from studies.errors import DatabaseError, DatabaseReadOnlyError, StudyMissingError
from studies.records import workers
from studies.records.control import set_priority
from studies.records.database import Database, open_database, open_to_read
from studies.records.stored_studies import open_study, require_storable
from studies.records.stored_trials import load_trials
from studies.records.tables import VERSION_TABLE
from studies.spec.study import parse_spec

NARROW = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
BYTES = "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
MLFLOW = (
    "CREATE TABLE experiments (experiment_id INTEGER)",
    "CREATE TABLE runs (run_uuid VARCHAR(32))",
    "CREATE TABLE latest_metrics (run_uuid VARCHAR(32))",
    "CREATE TABLE alembic_version (version_num VARCHAR(32))",
    "INSERT INTO alembic_version VALUES ('cfd24bdc0731')",
)
HOSPITAL = (
    "CREATE TABLE studies (id INTEGER, sponsor VARCHAR(32))",
    "CREATE TABLE trials (id INTEGER)",
    "CREATE TABLE version_info (id INTEGER)",
)
SHOP = ("CREATE TABLE django_migrations (id INTEGER)", "CREATE TABLE orders (id INTEGER)")
BESIDE_OPTUNA = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32))",
    "INSERT INTO alembic_version VALUES ('1a2b')",
)
OTHERS = {
    "MLflow": MLFLOW,
    "another program's": HOSPITAL,
    "a Django application": SHOP,
    "alembic_version": BESIDE_OPTUNA,
}


def score(params: Mapping[str, float]) -> Mapping[str, tuple[float, ...]]:
    return {"sharpness": (sum(params.values()),) * 4, "contrast": (1.0,) * 4}


def execute(url: str, *statements: str) -> None:
    """As another program would, past our code."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


def tables_of(url: str) -> list[str]:
    engine = sa.create_engine(url)
    found = sorted(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


def refusal(url: str, opened: Callable[[str], Database] = open_database) -> str:
    with pytest.raises(DatabaseError) as caught:
        opened(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()


def set_default(url: str, name: str, value: str) -> None:
    """Of the database's new sessions."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("SET default_transaction_read_only = off"))
        connection.execute(sa.text(f"ALTER DATABASE {sa.make_url(url).database} SET {name} = {value}"))
    engine.dispose()


# ---------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("encoding", "prompt"),
    [(BYTES, "ein Fuchs, 狐, 🦊"), (BYTES, "lis — ćma"), (NARROW, "Jäger, señor"), (NARROW, "cat")],
)
def test_a_study_keeps_its_text_whatever_a_servers_encoding(encoding: str, prompt: str) -> None:
    with opened(new_postgresql_url(encoding)) as database:
        prompts = [prompt, "a dog", "a fox", "a bee"]
        store_study(database, "texts", score, trials=3, suite={"prompts": prompts})
        stored = open_study(database, "texts")
        require_storable(database, stored.study.spec)
        assert [each.prompt for each in stored.study.spec.suite.prompts] == prompts
        assert len(load_trials(stored)) == 3


@pytest.mark.parametrize("prompt", ["狐", "lis ćma", "an em dash — here"])
def test_what_a_narrow_encoding_cannot_store_is_refused_before_anything_is_made(prompt: str) -> None:
    with opened(new_postgresql_url(NARROW)) as database:
        spec = parse_spec(SPEC.format(name="texts").replace("a cat", prompt), base_dir=Path("/"))
        with pytest.raises(DatabaseError, match=r"LATIN1.*UTF8"):
            require_storable(database, spec)
        with pytest.raises(StudyMissingError):
            open_study(database, prompt)
        with pytest.raises(DatabaseError, match="no such character"):
            optuna.create_study(storage=database.storage, study_name=prompt)
        assert optuna.get_all_study_names(storage=database.storage) == []


@pytest.mark.slow
def test_a_start_whose_prompt_a_server_cannot_store_ends_with_one_line(tmp_path: Path) -> None:
    url = new_postgresql_url(NARROW)
    spec = short_spec()
    spec["suite"]["prompts"] = ["狐"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8")
    said = run_program(tmp_path, "study", "start", "spec.yaml", "--storage", url, code=2)
    assert "ENCODING 'UTF8'" in said
    with opened(url) as database:
        assert optuna.get_all_study_names(storage=database.storage) == []


# ------------------------------------------------------------------------- servers that take no writes


@pytest.fixture
def replica() -> str:
    """The URL of a database with a study, which takes no writes any more."""
    url = new_postgresql_url()
    with opened(url) as database:
        store_study(database, "kept", score, trials=12)
    set_default(url, "default_transaction_read_only", "on")
    return url


@pytest.mark.slow
def test_a_server_that_takes_no_writes_can_be_read(replica: str, tmp_path: Path) -> None:
    for words in (("list",), ("show", "kept"), ("importance", "kept"), ("doctor",)):
        run_program(tmp_path, "study", *words, "--storage", replica)


@pytest.mark.slow
def test_who_wants_to_write_to_it_is_told_so(replica: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseReadOnlyError, match="takes no writes"):
        open_database(replica)
    said = run_program(tmp_path, "study", "stop", "kept", "--storage", replica, code=2)
    assert "replica" in said
    assert said.count("\n") == 1


def test_an_empty_server_that_takes_no_writes_is_one_line() -> None:
    url = new_postgresql_url()
    set_default(url, "default_transaction_read_only", "on")
    assert "takes no writes" in refusal(url)
    assert tables_of(url) == []


def test_a_worker_waits_for_a_server_that_takes_no_writes_as_for_one_that_is_away() -> None:
    url = new_postgresql_url()
    waited: list[str] = []
    with opened(url) as database:
        store_study(database, "kept", score, trials=2)
        study = open_study(database, "kept")
        set_default(url, "default_transaction_read_only", "on")
        database.engine.dispose()

        def told(reason: str, _seconds: float) -> None:
            waited.append(reason)
            set_default(url, "default_transaction_read_only", "off")
            database.engine.dispose()

        Retry(on_waiting=told)(lambda: set_priority(study, 7))
        assert open_study(database, "kept").study.priority == 7
    assert len(waited) == 1
    assert "read-only transaction" in waited[0]


def test_a_server_that_goes_on_taking_no_writes_is_lost_after_the_patience() -> None:
    url = new_postgresql_url()
    with opened(url) as database:
        store_study(database, "kept", score, trials=2)
        study = open_study(database, "kept")
        set_default(url, "default_transaction_read_only", "on")
        database.engine.dispose()
        with pytest.raises(DatabaseLostError, match="nothing that was stored is lost"):
            Retry(limit_seconds=0.5)(lambda: set_priority(study, 7))


# ---------------------------------------------------------------------------- other programs' databases


@pytest.mark.parametrize("how", [open_database, open_to_read])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_another_programs_database_is_named_and_left_alone(
    kind: str, name: str, how: Callable[[str], Database], tmp_path: Path
) -> None:
    url = new_postgresql_url() if kind == "postgresql" else f"sqlite:///{tmp_path}/theirs.db"
    execute(url, *OTHERS[name])
    tables, files = tables_of(url), [(file.name, file.read_bytes()) for file in tmp_path.iterdir()]
    message = refusal(url, how)
    assert name in message
    assert "not a study database" in message
    assert "optuna" not in message.lower()
    assert tables_of(url) == tables
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == files


@pytest.mark.parametrize("left", ["closed", "with a log"])
def test_a_browsers_history_is_not_even_tidied_up(left: str, tmp_path: Path) -> None:
    file = tmp_path / "places.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE moz_places (id INTEGER, url TEXT)")
    connection.commit()
    if left == "closed":
        connection.close()
    names = sorted(each.name for each in tmp_path.iterdir())
    before = [file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")]
    assert "Firefox" in refusal(f"sqlite:///{file}")
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    assert [file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")] == before
    connection.close()


def test_a_study_database_in_which_another_program_has_a_table_too_still_opens() -> None:
    url = new_postgresql_url()
    open_database(url).close()
    execute(url, "CREATE TABLE notes_of_the_team (id INTEGER)")
    open_database(url).close()
    open_to_read(url).close()


# ------------------------------------------------------------------------------- rights and settings


def with_role(url: str, name: str, *grants: str) -> str:
    """The URL for a new role, which has been granted what is said."""
    database = sa.make_url(url).database
    role = f"{name}_of_{database}"
    execute(url, f"CREATE ROLE {role} LOGIN", *(grant.format(role=role) for grant in grants))
    return sa.make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_role_without_create_is_told_what_to_ask_for() -> None:
    url = with_role(new_postgresql_url(), "guest")
    message = refusal(url)
    assert "permission denied for schema public" in message
    assert "CREATE" in message
    assert tables_of(url) == []
    gc.collect()  # Optuna's storage, which could not be made, left its connection open


@pytest.mark.slow
def test_a_role_that_may_only_read_reads(tmp_path: Path) -> None:
    owner = new_postgresql_url()
    with opened(owner) as database:
        store_study(database, "kept", score, trials=3)
    nobody = with_role(owner, "nobody")
    assert "grant" in refusal(nobody, open_to_read)
    reader = with_role(owner, "reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    assert "kept" in run_program(tmp_path, "study", "list", "--storage", reader)
    said = run_program(tmp_path, "study", "stop", "kept", "--storage", reader, code=2)
    assert "grant" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_role_that_does_not_own_the_tables_of_an_older_version_is_sent_to_their_owner(tmp_path: Path) -> None:
    """No right that could be granted lets it change them."""
    owner = new_postgresql_url()
    make_older_database(owner, "0003")
    everything = ("GRANT ALL ON SCHEMA public TO {role}", "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    guest = with_role(owner, "guest", *everything)
    said = run_program(tmp_path, "study", "migrate", "--storage", guest, code=2)
    assert "must be owner of table mergetune_trials: run `mergetune study migrate` as the owner of the tables" in said
    assert "grant" not in said
    assert said.count("\n") == 1
    run_program(tmp_path, "study", "migrate", "--storage", owner)
    run_program(tmp_path, "study", "list", "--storage", guest)


def last_sign(database: Database, worker: str) -> float:
    with database.engine.connect() as connection:
        query = sa.text("SELECT seen_at FROM mergetune_workers WHERE id = :worker")
        return float(connection.execute(query, {"worker": worker}).scalar_one())


def passes_within(seconds: float, happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not happens():
        time.sleep(0.05)
    return happens()


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        ("REVOKE UPDATE ON mergetune_workers FROM {role}", "GRANT UPDATE ON mergetune_workers TO {role}"),
        ("REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC", "GRANT USAGE ON SCHEMA public TO {role}"),
        ("ALTER TABLE mergetune_workers RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO mergetune_workers"),
    ],
)
def test_a_worker_whose_server_refused_for_a_while_gives_signs_of_life_again(
    refuse: str, allow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    owner = new_postgresql_url()
    open_database(owner).close()
    guest = with_role(
        owner, "worker", "GRANT ALL ON SCHEMA public TO {role}", "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    )
    role = sa.make_url(guest).username
    with opened(owner) as watching, opened(guest) as database:
        with heartbeat.registered_worker(database, Retry()) as worker:
            execute(owner, refuse.format(role=role))
            time.sleep(1.0)
            execute(owner, allow.format(role=role))
            then = last_sign(watching, worker.worker_id)
            assert passes_within(10, lambda: last_sign(watching, worker.worker_id) > then)
        assert not workers.is_registered(watching, worker.worker_id)


def test_the_heartbeat_ends_once_another_version_has_changed_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    url = new_postgresql_url()
    with opened(url) as database, heartbeat.registered_worker(database, Retry()):
        (beating,) = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
        execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        beating.join(10)
        assert not beating.is_alive()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_search_path_that_leads_nowhere_is_told() -> None:
    url = new_postgresql_url()
    set_default(url, "search_path", "nowhere")
    assert "search_path" in refusal(url)
    gc.collect()  # as above


def test_a_schema_of_its_own_keeps_a_study_apart_from_another_program() -> None:
    url = new_postgresql_url()
    execute(url, "CREATE SCHEMA other", "CREATE TABLE other.alembic_version (version_num VARCHAR(32))")
    execute(url, "CREATE SCHEMA ours")
    set_default(url, "search_path", "ours")
    with opened(url) as database:
        store_study(database, "apart", score, trials=3)
    with opened(url) as database:
        assert open_study(database, "apart").study.name == "apart"


def test_a_servers_time_zone_and_date_style_change_no_study() -> None:
    url = new_postgresql_url()
    set_default(url, "timezone", "'Asia/Kathmandu'")
    set_default(url, "datestyle", "'German, DMY'")
    with opened(url) as database:
        store_study(database, "kept", score, trials=3)
        assert abs(database.clock() - time.time()) < 60
        stored = load_trials(open_study(database, "kept"))
        assert all(abs(row.started_at - time.time()) < 600 for row in stored)
        told = optuna.load_study(study_name="kept", storage=database.storage).trials
        assert all(trial.duration is not None and trial.duration.total_seconds() < 600 for trial in told)


def test_a_servers_time_limits_do_not_end_the_wait_for_the_lock_or_its_holder() -> None:
    url = new_postgresql_url()
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        set_default(url, name, "'400ms'")
    with opened(url) as first, opened(url) as second:
        held = threading.Event()

        def hold() -> None:
            with first.exclusive():
                held.set()
                time.sleep(1.2)

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(hold)
            assert held.wait(60)
            begun = time.monotonic()
            with second.exclusive():
                assert time.monotonic() - begun > 0.8
            holding.result(60)


def test_a_pooler_may_change_the_session_between_transactions() -> None:
    """PgBouncer does, in its mode `transaction`: what one session has prepared the next does not know."""
    with opened(new_postgresql_url()) as database:
        store_study(database, "kept", score, trials=3)
        records = open_study(database, "kept")
        for number in range(20):
            set_priority(records, number)
            with database.engine.begin() as connection:
                connection.execute(sa.text("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"))
