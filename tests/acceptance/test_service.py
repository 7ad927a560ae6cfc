"""The processes of docker-compose.yml, started by hand with its own commands: a real PostgreSQL and password files.

Artifacts are in a folder, or in a real S3-compatible store with the environment of docker/s3.yml.
"""

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
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_study import DEMO, SMALL, begin
from object_store import BUCKET, SECRET_KEY, ObjectStore, object_store
from real_databases import new_guarded_postgresql_url

from optimizer.observe.guarded_server import PASSWORD_VARIABLE
from optimizer.observe.http_gate import USER
from studies.records.database import PASSWORD_FILE_VARIABLE

MERGETUNE = [sys.executable, "-m", "optimizer.cli"]
ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
IN_BUCKET = yaml.safe_load((ROOT / "docker" / "s3.yml").read_text())["services"]
STORAGE_PASSWORD = "of-the-database-0123456789"
DASHBOARD_PASSWORD = "of-the-dashboard-0123456789"
CHANGES = {**SMALL, "budget": {"trials": 60}}
PASSWORDS = (STORAGE_PASSWORD, DASHBOARD_PASSWORD, SECRET_KEY)


class Service:
    """A folder in the place of the containers' volumes and secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, password in (("postgres_password", STORAGE_PASSWORD), ("dashboard_password", DASHBOARD_PASSWORD)):
            (folder / name).write_text(f"{password}\n")
        usual = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE and "AWS" not in name}
        self.environment = usual | {
            "MERGETUNE_STORAGE": new_guarded_postgresql_url(STORAGE_PASSWORD),
            PASSWORD_FILE_VARIABLE: str(folder / "postgres_password"),
            "MERGETUNE_ARTIFACTS": str(folder / "artifacts"),
            "MERGETUNE_CACHE": str(folder / "cache"),
            "HOME": "/nonexistent",  # containers have a home that cannot be written
            "MPLCONFIGDIR": str(folder / "matplotlib"),
        }

    def in_bucket(self, name: str, objects: ObjectStore) -> dict[str, str]:
        """What docker/s3.yml adds to a service's environment, where a user has set what must be set."""
        key, secret = (objects.environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        credentials = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        (self.folder / "s3_credentials").write_text(credentials)
        told = objects.environment | {"MERGETUNE_ARTIFACTS": f"s3://{BUCKET}/service"}
        found = {}
        for variable, value in IN_BUCKET[name]["environment"].items():
            asked = re.fullmatch(r"\$\{(\w+):[-?](.*)\}", value)
            found[variable] = told.get(asked[1], asked[2]) if asked else value.replace("/run/secrets", str(self.folder))
        return found

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A service's command, with what only holds in a container changed."""
        changes = {"/run/secrets": str(self.folder), "/models": str(DEMO), "0.0.0.0": "127.0.0.1", "8080": "0"}
        words = SERVICES[name]["command"]
        for before, after in changes.items():
            words = [word.replace(before, after) for word in words]
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [*MERGETUNE, *words],
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
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
        for password in PASSWORDS:
            assert password not in said + complained
        return said + complained


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A database that the migration step has made."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.end(service.start("migrate"), "migrate")
    return service


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture(scope="module")
def dashboard(service: Service, objects: ObjectStore) -> Iterator[str]:
    """Its address, with a study in the database that was begun while it started; it shows what is in the bucket."""
    process = service.start("dashboard", service.in_bucket("dashboard", objects))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(PASSWORD_FILE_VARIABLE, service.environment[PASSWORD_FILE_VARIABLE])
            begin(service.folder, CHANGES, service.environment["MERGETUNE_STORAGE"]).database.close()
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
        assert not [password for password in PASSWORDS if password in content]


def shown(address: str, path: str) -> tuple[str, bytes]:
    """Type and content of what the dashboard answers."""
    login = base64.b64encode(f"{USER}:{DASHBOARD_PASSWORD}".encode()).decode()
    request = urllib.request.Request(f"{address}{path}", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["content-type"], answer.read()


def trials_shown(address: str) -> list[dict[str, Any]]:
    return list(json.loads(shown(address, "/api/studies/1")[1])["trials"])


@pytest.mark.parametrize("place", ["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def test_a_worker_works_leaves_on_sigterm_and_the_dashboard_shows_it(
    place: str, service: Service, objects: ObjectStore, dashboard: str
) -> None:
    def sheets() -> int:
        in_folder = [file.name for file in (service.folder / "artifacts").rglob("*")]
        files = in_folder if place == "folder" else objects.names("service")
        return sum(file.endswith("sheet.jpg") for file in files)

    states = Counter(trial["state"] for trial in trials_shown(dashboard))
    before = states.pop("Complete", 0)
    assert set(states) <= {"Waiting"}
    worker = service.start("worker", service.in_bucket("worker", objects) if place == "bucket" else {})
    assert worker.stdout is not None
    assert_nothing_shows_a_password(worker.pid)
    seen, asked = "", False
    for line in worker.stdout:
        seen += line
        if line.startswith("trial ") and not asked:  # once: a second time would cut the next trial off
            worker.send_signal(signal.SIGTERM)
            asked = True
    seen += service.end(worker, "worker")
    done = re.findall(r"^trial (\d+),", seen, flags=re.MULTILINE)
    trials = trials_shown(dashboard)
    states = Counter(trial["state"] for trial in trials)
    assert 1 <= len(done) < 30
    assert sheets() == len(done), seen
    assert states["Complete"] == before + len(done)
    assert states["Running"] == 0
    if place == "bucket":
        trial = trials[int(done[-1])]
        (sheet,) = trial["artifacts"]
        kind, picture = shown(dashboard, f"/artifacts/1/{trial['trial_id']}/{sheet['artifact_id']}")
        assert (kind, picture[:3]) == ("image/jpeg", b"\xff\xd8\xff")


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
        said = service.end(service.start("worker"), "worker", code=2)
    finally:
        (service.folder / "away").rename(service.folder / "postgres_password")
    assert said.startswith("error: the password file")
    assert said.count("\n") == 1
