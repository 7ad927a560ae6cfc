"""The processes of docker-compose.yml, started by hand with its own commands: a real PostgreSQL and password files."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from demo_study import DEMO, begin
from real_databases import new_guarded_postgresql_url

from optimizer.gates import PASSWORD_VARIABLE, USER
from studies.database import PASSWORD_FILE_VARIABLE

MERGETUNE = [sys.executable, "-m", "optimizer.cli"]
SERVICES = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())["services"]
STORAGE_PASSWORD = "of-the-database-0123456789"
DASHBOARD_PASSWORD = "of-the-dashboard-0123456789"


class Service:
    """A folder in the place of the containers' volumes and secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, password in (("postgres_password", STORAGE_PASSWORD), ("dashboard_password", DASHBOARD_PASSWORD)):
            (folder / name).write_text(f"{password}\n")
        self.environment = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE} | {
            "MERGETUNE_STORAGE": new_guarded_postgresql_url(STORAGE_PASSWORD),
            PASSWORD_FILE_VARIABLE: str(folder / "postgres_password"),
            "MERGETUNE_ARTIFACTS": str(folder / "artifacts"),
            "MERGETUNE_CACHE": str(folder / "cache"),
            "HOME": "/nonexistent",  # containers have a home that cannot be written
            "MPLCONFIGDIR": str(folder / "matplotlib"),
        }

    def start(self, name: str, **changes: str) -> subprocess.Popen[str]:
        """A service's command, with what only holds in a container changed."""
        changes |= {"/run/secrets": str(self.folder), "0.0.0.0": "127.0.0.1", "8080": "0"}
        words = SERVICES[name]["command"]
        for before, after in changes.items():
            words = [word.replace(before, after) for word in words]
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [*MERGETUNE, *words],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def end(self, process: subprocess.Popen[str], name: str, code: int = 0) -> str:
        """What it has said since, after it has ended as it should."""
        said, _ = process.communicate(timeout=120)
        complained = (self.folder / f"{name}.log").read_text()
        assert process.returncode == code, said + complained
        assert "Traceback" not in said + complained
        for password in (STORAGE_PASSWORD, DASHBOARD_PASSWORD):
            assert password not in said + complained
        return said + complained


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A database that the migration step has made."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.end(service.start("migrate"), "migrate")
    return service


@pytest.fixture(scope="module")
def dashboard(service: Service) -> Iterator[str]:
    """Its address, with a study in the database that was begun while it started."""
    process = service.start("dashboard")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(PASSWORD_FILE_VARIABLE, service.environment[PASSWORD_FILE_VARIABLE])
            begin(service.folder, {"final": {"top": 0}}, service.environment["MERGETUNE_STORAGE"]).database.close()
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        assert_nothing_shows_a_password(process.pid)
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        service.end(process, "dashboard")


def assert_nothing_shows_a_password(pid: int) -> None:
    for file in ("cmdline", "environ"):
        content = Path(f"/proc/{pid}/{file}").read_bytes().decode()
        assert STORAGE_PASSWORD not in content
        assert DASHBOARD_PASSWORD not in content


def trials_shown(address: str) -> dict[str, int]:
    """State -> number of the study's trials, as the dashboard tells."""
    login = base64.b64encode(f"{USER}:{DASHBOARD_PASSWORD}".encode()).decode()
    request = urllib.request.Request(f"{address}/api/studies/1", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        states = [trial["state"] for trial in json.load(answer)["trials"]]
    return {state: states.count(state) for state in states}


def test_a_worker_works_leaves_on_sigterm_and_the_dashboard_shows_it(service: Service, dashboard: str) -> None:
    assert set(trials_shown(dashboard)) <= {"Waiting"}
    worker = service.start("worker", **{"/models": str(DEMO)})
    assert worker.stdout is not None
    assert_nothing_shows_a_password(worker.pid)
    seen = ""
    for line in worker.stdout:
        seen += line
        if line.startswith("trial 1,"):
            worker.send_signal(signal.SIGTERM)
    seen += service.end(worker, "worker")
    done = re.findall(r"^trial (\d+),", seen, flags=re.MULTILINE)
    shown = trials_shown(dashboard)
    assert 2 <= len(done) < 13
    assert shown["Complete"] == len(done)
    assert shown.get("Running", 0) == 0


def test_the_dashboard_asks_for_its_password_which_is_what_its_health_check_wants(dashboard: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{dashboard}/api/studies", timeout=30)
    refused.value.close()
    _, *check = SERVICES["dashboard"]["healthcheck"]["test"]
    here = [sys.executable, *(word.replace("8080", dashboard.rpartition(":")[2]) for word in check[1:])]
    assert subprocess.run(here, check=False, timeout=60).returncode == 0
    nowhere = [word.replace(dashboard.rpartition(":")[2], "1") for word in here]
    assert subprocess.run(nowhere, check=False, timeout=60, stderr=subprocess.DEVNULL).returncode != 0


def test_without_the_password_file_nothing_begins(service: Service) -> None:
    (service.folder / "postgres_password").rename(service.folder / "away")
    try:
        said = service.end(service.start("worker", **{"/models": str(DEMO)}), "worker", code=2)
    finally:
        (service.folder / "away").rename(service.folder / "postgres_password")
    assert said.startswith("error: the password file")
    assert said.count("\n") == 1
