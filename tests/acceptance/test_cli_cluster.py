"""Workers on a local Ray, one of which is killed (slow, `make test-slow`), and what is said without a Ray."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import Call, caller, enter, run_program
from demo_study import SMALL, write_spec

from studies.records import stored_studies, stored_trials
from studies.records.database import open_database
from studies.system.processes import process_identity

CHANGES = {**SMALL, "study": "shared", "budget": {"trials": 60}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("RAY_ADDRESS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys, "cluster")


def test_a_cluster_that_is_not_there_is_told_at_once(folder: Path, call: Call) -> None:
    here = ("--cache", folder / "cache")
    assert "begin with `mergetune cluster start`" in call("status", *here, code=2).err
    assert "no Ray cluster at 127.0.0.1:1 (" in call("stop", *here, "--address", "127.0.0.1:1", code=2).err
    assert "takes HOST:PORT" in call("status", *here, "--address", "nonsense", code=2).err
    assert "no study database" in call("start", *here, code=2).err


def test_without_ray_it_is_said_what_to_install(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "ray").is_dir()])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert "pip install 'mergetune[ray]'" in call("status", "--cache", folder / "cache", code=2).err


def listening(process: psutil.Process) -> set[str]:
    """Addresses on which a process and its children listen."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_ray_runs_workers_restarts_one_that_is_killed_and_ends_with_them(folder: Path) -> None:
    write_spec(folder / "shared.yaml", **CHANGES)
    run_program(folder, "study", "start", "shared.yaml", "--detach")
    here = ("--cache", str(folder / "cache"))
    assert "2 workers in the cluster" in run_program(folder, "cluster", "start", "--workers", "2", *here)
    try:
        workers = await_workers(folder, here, 2)
        head = psutil.Process(int(re.findall(r'"pid": (\d+)', (folder / "cache" / "ray.json").read_text())[0]))
        for process in workers.values():
            assert psutil.Process(int(process)).environ()["OMP_WAIT_POLICY"] == "PASSIVE"
        assert listening(head) == {"127.0.0.1"}
        assert (folder / "cache" / "ray.token").stat().st_mode & 0o077 == 0
        os.kill(int(workers["worker-0"]), signal.SIGKILL)
        deadline = time.monotonic() + 200
        while (again := await_workers(folder, here, 2)) == workers and time.monotonic() < deadline:
            time.sleep(1)
        assert again["worker-0"] != workers["worker-0"]
        assert again["worker-1"] == workers["worker-1"]
        while time.monotonic() < deadline and "60/60" not in run_program(folder, "study", "list"):
            time.sleep(1)
    finally:
        said = run_program(folder, "cluster", "stop", *here)
    assert "2 workers have left" in said
    assert "the Ray of this machine has ended" in said
    assert process_identity(head.pid) is None
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    rows = stored_trials.load_trials(stored_studies.open_study(database, "shared"))
    assert [row.state for row in rows] == ["complete"] * 60
    assert len({row.worker_id for row in rows}) >= 2
    database.close()


def await_workers(folder: Path, here: tuple[str, ...], count: int) -> dict[str, str]:
    """Name -> process of the workers, once so many answer."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = dict(re.findall(r"(worker-\d+) *│ *\S+ *│ *(\d+)", run_program(folder, "cluster", "status", *here)))
        if len(found) == count:
            return found
        time.sleep(1)
    raise AssertionError("the workers do not answer")
