"""Commands that begin while their database is away: they wait as a running worker does, for a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from demo_study import DEMO, SMALL, write_spec
from optuna.exceptions import StorageInternalError
from real_databases import OwnServer

from optimizer.cli.common import guarded
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from studies.records.database import open_database
from studies.records.stored_studies import create_study
from studies.spec.study import load_spec

ROOT = Path(__file__).parents[2]
BUDGET = {**SMALL, "budget": {"trials": 3}}
COMMANDS = [
    ("worker", "--until-done", "--models", str(DEMO)),
    ("study", "resume", "short"),
    ("study", "start", "other.yaml"),
    ("study", "start", "other.yaml", "--detach"),
    ("study", "finish", "short"),
    ("study", "migrate"),
    ("dashboard", "--port", "0"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    found = OwnServer()
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder(server: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study in the server's database that has not begun its work."""
    folder = tmp_path_factory.mktemp("outage")
    write_spec(folder / "other.yaml", **BUDGET | {"study": "other"})
    write_spec(folder / "spec.yaml", **BUDGET)
    server.start()
    plan, database = make_plan(load_spec(folder / "spec.yaml")), open_database(server.url)
    objective = plan.objective
    create_study(database, plan.spec, hash_parents(plan), objective.directions, objective.names)
    database.close()
    return folder


def command(folder: Path, server: OwnServer, *words: str, patience: float = 60) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MERGETUNE_STORAGE": server.url,
        "MERGETUNE_ARTIFACTS": "files",
        "MERGETUNE_PATIENCE_SECONDS": str(patience),
    }
    program = [sys.executable, "-m", "optimizer.cli", *words]
    return subprocess.Popen(
        program, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=200)
    return process.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words[:2]))
def test_a_command_that_begins_in_an_outage_waits_and_ends_with_a_code_of_its_own(
    words: tuple[str, ...], server: OwnServer, folder: Path
) -> None:
    server.kill()
    code, out = ended(command(folder, server, *words, patience=1.5))
    assert code == 3, out
    assert "waiting for the study database" in out
    assert "Traceback" not in out
    assert out.strip().splitlines()[-1].startswith("error: the study database has been away for ")


@pytest.mark.slow
def test_a_worker_that_began_in_an_outage_works_once_the_database_is_back(server: OwnServer, folder: Path) -> None:
    server.kill()
    worker = command(folder, server, "worker", "--study", "short", "--until-done")
    assert worker.stdout is not None
    assert any("waiting for the study database" in line for line in worker.stdout)
    server.start()
    code, out = ended(worker)
    assert code == 0, out
    assert "this worker finished 3 trials" in out


def test_sigterm_ends_the_wait_at_the_start(server: OwnServer, folder: Path) -> None:
    server.kill()
    worker = command(folder, server, "worker", "--models", str(DEMO))
    assert worker.stdout is not None
    worker.stdout.readline()
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    code, _ = ended(worker)
    assert code != 0
    assert time.monotonic() - began < 10


def test_a_server_that_answers_and_refuses_is_not_waited_for(server: OwnServer, folder: Path) -> None:
    server.start()
    before = server.url
    try:
        server.url = sa.make_url(before).set(database="nowhere").render_as_string(hide_password=False)
        code, out = ended(command(folder, server, "worker", "--models", str(DEMO)))
    finally:
        server.url = before
    assert code == 2, out
    assert 'database "nowhere" does not exist' in out


def test_what_optuna_takes_for_data_that_are_too_long_is_told_as_what_it_is(
    server: OwnServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.start()
    database = open_database(server.url, create=False)
    study_id = database.storage.get_study_id_from_name("short")
    server.kill()

    def ask() -> None:
        with pytest.raises(StorageInternalError, match="exceeding max length"):
            database.storage.get_all_trials(study_id)
        database.storage.get_all_trials(study_id)

    assert guarded(ask, debug=False) == 3
    said = capsys.readouterr().err
    assert "exceeding max length" not in said
    assert "connection" in said
    database.close()
