"""Workers on a Ray cluster, one of which is killed (slow, `make test-slow`), and what is said without a Ray."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command_line import Call, caller, enter, run_program
from demo_study import SMALL, write_spec

from studies.records import stored_studies, stored_trials
from studies.records.database import open_database

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
    for command in ("start", "status", "stop"):
        assert "Missing option '--address'" in call(command, code=2).err
    nowhere = ("--address", "127.0.0.1:1")
    assert "no Ray cluster at 127.0.0.1:1 (" in call("stop", *nowhere, code=2).err
    assert "takes HOST:PORT" in call("status", "--address", "nonsense", code=2).err
    assert "no study database" in call("start", *nowhere, "--cache", folder / "cache", code=2).err


def test_without_ray_it_is_said_what_to_install(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "ray").is_dir()])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert "pip install 'mergetune[ray]'" in call("status", "--address", "127.0.0.1:1", code=2).err


@pytest.fixture
def head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray of this machine alone, which wants a token of whoever reaches it."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # or Ray would listen outside loopback
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={port}", "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_ray_runs_workers_and_restarts_one_that_is_killed(folder: Path, head: str) -> None:
    write_spec(folder / "shared.yaml", **CHANGES)
    run_program(folder, "study", "start", "shared.yaml", "--detach")
    there = ("--address", head)
    cache = ("--cache", str(folder / "cache"))
    assert "2 workers in the cluster" in run_program(folder, "cluster", "start", "--workers", "2", *there, *cache)
    try:
        workers = await_workers(folder, there, 2)
        for process in workers.values():
            assert psutil.Process(int(process)).environ()["OMP_WAIT_POLICY"] == "PASSIVE"
        os.kill(int(workers["worker-0"]), signal.SIGKILL)
        deadline = time.monotonic() + 200
        while (again := await_workers(folder, there, 2)) == workers and time.monotonic() < deadline:
            time.sleep(1)
        assert again["worker-0"] != workers["worker-0"]
        assert again["worker-1"] == workers["worker-1"]
        while time.monotonic() < deadline and "60/60" not in run_program(folder, "study", "list"):
            time.sleep(1)
    finally:
        said = run_program(folder, "cluster", "stop", *there)
    assert "2 workers have left" in said
    assert "worker-" not in run_program(folder, "cluster", "status", *there)
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    trials = stored_trials.load_trials(stored_studies.open_study(database, "shared"))
    assert [trial.state for trial in trials] == ["complete"] * 60
    assert len({trial.worker_id for trial in trials}) >= 2
    database.close()


def await_workers(folder: Path, there: tuple[str, ...], count: int) -> dict[str, str]:
    """Name -> process of the workers, once so many answer."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = dict(re.findall(r"(worker-\d+) *│ *\S+ *│ *(\d+)", run_program(folder, "cluster", "status", *there)))
        if len(found) == count:
            return found
        time.sleep(1)
    raise AssertionError("the workers do not answer")
