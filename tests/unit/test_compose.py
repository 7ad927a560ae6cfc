"""docker-compose.yml and Dockerfile, read without Docker: valid, closed to the outside, and about things that exist."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from optimizer.cli.common import storage_url
from optimizer.cli.main import app
from studies.records.database import PASSWORD_FILE_VARIABLE
from studies.system.database_url import database_file, redacted

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = [
    shlex.split(line, comments=True)
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == COMPOSE["x-mergetune"]["image"])
EVERY = sorted(SERVICES)
PAGES = ("how-to/run-a-service.md", "how-to/s3-bucket.md", "how-to/back-up-and-upgrade.md", "reference/service.md")
GUIDE = "\n".join((ROOT / "docs" / page).read_text() for page in PAGES)

of_every_service = pytest.mark.parametrize("name", EVERY)
of_our_services = pytest.mark.parametrize("name", OURS)


def defaults(text: str) -> str:
    """Text as Compose reads it where nothing is set."""
    assert not re.search(r"\$(?!\{\w+:-[^}]*\})", text), text
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def words(value: object) -> list[str]:
    """A command, which must be a list: a string would be split in ways that depend on who reads it."""
    assert isinstance(value, list)
    return [defaults(word) for word in value]


# ------------------------------------------------------------------------------------------- schema


def schema_check(file: Path) -> int:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def test_the_file_is_what_the_compose_specification_describes(tmp_path: Path) -> None:
    assert schema_check(FILE) == 0
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("stop_grace_period:", "stop_grace_time:"))
    assert schema_check(wrong) != 0


def test_there_is_a_database_a_migration_a_dashboard_and_a_worker() -> None:
    assert EVERY == ["dashboard", "migrate", "postgres", "worker"]
    assert OURS == ["dashboard", "migrate", "worker"]


# ------------------------------------------------------------------------------------------ network


@of_every_service
def test_what_is_published_is_on_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        address, outside, inside = defaults(port).rsplit(":", 2)
        assert ipaddress.ip_address(address).is_loopback
        assert int(outside) == int(inside)
    assert SERVICES[name].get("network_mode") is None


def test_the_database_is_on_a_network_without_a_way_out_and_publishes_nothing() -> None:
    assert SERVICES["postgres"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert "ports" not in SERVICES["postgres"]
    assert [name for name in EVERY if SERVICES[name].get("ports")] == ["dashboard"]


def test_the_dashboard_has_a_password_and_its_port_is_the_one_published_and_asked_for_health() -> None:
    service = SERVICES["dashboard"]
    command = words(service["command"])
    assert command[command.index("--password-file") + 1] == "/run/secrets/dashboard_password"
    port = command[command.index("--port") + 1]
    assert [defaults(published).rsplit(":", 1)[1] for published in service["ports"]] == [port]
    assert port in service["healthcheck"]["test"][-1]


# ------------------------------------------------------------------------------------------ secrets

SECRET = re.compile(r"pass(word|wd)?|secret|token|key", re.IGNORECASE)


@of_every_service
def test_no_secret_is_in_an_environment_or_a_command(name: str) -> None:
    service = SERVICES[name]
    mounted = {f"/run/secrets/{secret}" for secret in service["secrets"]}
    for variable, value in service["environment"].items():
        if SECRET.search(variable):
            assert variable.endswith("_FILE")
            assert value in mounted
        elif "://" in value:
            assert redacted(value) == value  # nothing in it had to be hidden
    for word in words(service["command"]) if "command" in service else []:
        assert not SECRET.search(word) or word in mounted or word == "--password-file"


@of_every_service
def test_secrets_are_files_that_are_declared_explained_and_never_committed(name: str) -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for secret in SERVICES[name]["secrets"]:
        (kind, file), *rest = COMPOSE["secrets"][secret].items()
        assert (kind, rest) == ("file", [])
        path = Path(defaults(file))
        assert f"> {path.as_posix()}" in GUIDE
        assert f"/{path.parts[0]}/" in ignored


@of_our_services
def test_the_database_is_named_without_a_password_which_comes_from_the_servers_own_file(name: str) -> None:
    environment = SERVICES[name]["environment"]
    url = environment["MERGETUNE_STORAGE"]
    assert storage_url(url) == url
    assert database_file(url) is None  # a server's
    user, host, database = re.fullmatch(r"postgresql\+psycopg://(\w+)@(\w+)/(\w+)", url).groups()  # type: ignore[union-attr]
    assert host in SERVICES
    server = SERVICES[host]["environment"]
    assert (user, database) == (server["POSTGRES_USER"], server["POSTGRES_DB"])
    assert environment[PASSWORD_FILE_VARIABLE] == server["POSTGRES_PASSWORD_FILE"]
    health = " ".join(SERVICES[host]["healthcheck"]["test"])
    assert f"--username={user} --dbname={database}" in health


# ------------------------------------------------------------------------------------------- bucket


def test_artifacts_in_a_bucket_are_added_to_whoever_reads_or_writes_them() -> None:
    assert schema_check(ROOT / "docker" / "s3.yml") == 0
    added = yaml.safe_load((ROOT / "docker" / "s3.yml").read_text())
    assert set(added["services"]) == {name for name in EVERY if "/artifacts" in mounts(name)}
    for name, service in added["services"].items():
        assert "outside" in SERVICES[name]["networks"]
        assert set(service) == {"environment", "secrets"}
        for variable, value in service["environment"].items():
            assert value in {f"/run/secrets/{secret}" for secret in service["secrets"]} or f"${{{variable}:" in value
            assert not re.search("KEY|TOKEN|SECRET", variable)
            assert f"`{variable}`" in GUIDE or f"{variable}=" in GUIDE
    for secret, source in added["secrets"].items():
        assert secret not in COMPOSE["secrets"]
        assert f"> {defaults(source['file'])}\n".replace("./", "") in GUIDE
    assert "COMPOSE_FILE=docker-compose.yml:docker/s3.yml" in GUIDE
    assert any("s3" in re.findall(r"\w+", word) for line in DOCKERFILE for word in line if word.startswith(".["))


# ----------------------------------------------------------------------------------------- commands


@of_our_services
def test_every_command_is_one_of_ours_with_options_that_it_has(name: str) -> None:
    service = SERVICES[name]
    entry = words(service.get("entrypoint") or next(line[1:] for line in DOCKERFILE if line[0] == "ENTRYPOINT")[0:1])
    assert entry[-1].strip("[]") == "mergetune"
    command: Any = typer.main.get_command(app)
    arguments = words(service["command"])
    context: Any = None
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    context = command.make_context(name, arguments, resilient_parsing=False)
    assert not context.args
    required = [parameter.name for parameter in command.params if parameter.required]
    assert all(context.params[parameter] is not None for parameter in required)


def test_what_the_guide_runs_exists() -> None:
    command: Any = typer.main.get_command(app)
    shown = re.findall(r"^docker compose run --rm worker (.+)$", GUIDE, flags=re.MULTILINE)
    assert shown
    for line in shown:
        group, *rest = line.split()
        inner = command.commands[group]
        assert not hasattr(inner, "commands") or rest[0] in inner.commands
    for line in re.findall(
        r"docker compose (?:exec -T|exec|restart|logs|up [-\w= ]+--(?:wait|scale \S+)) (\w+)", GUIDE
    ):
        assert line in SERVICES
    for variable in re.findall(r"\$\{(\w+):-", FILE.read_text()):
        assert f"`{variable}`" in GUIDE


def test_the_entry_of_the_worker_is_in_the_image() -> None:
    script = words(SERVICES["worker"]["entrypoint"])[0]
    assert ["COPY", f"docker/{script}", f"/usr/local/bin/{script}"] in DOCKERFILE
    assert (ROOT / "docker" / script).stat().st_mode & 0o111


# ---------------------------------------------------------------------------------------- processes


@of_every_service
def test_what_a_service_waits_for_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_nothing_of_ours_begins_before_the_migration_is_done() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in set(OURS) - {"migrate"}:
        assert SERVICES[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


@of_our_services
def test_our_processes_get_signals_and_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "user", "pid", "ipc"} & set(service)


def test_a_worker_can_be_scaled_has_gpus_and_time_to_finish_its_trial() -> None:
    worker = SERVICES["worker"]
    assert "container_name" not in worker
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    minutes = re.fullmatch(r"(\d+)m", defaults(worker["stop_grace_period"]))
    assert minutes is not None
    assert int(minutes[1]) >= 5


# -------------------------------------------------------------------------------------- files, image


def mounts(name: str) -> dict[str, str]:
    """Where in the container -> volume or folder on the host."""
    found = {}
    for volume in SERVICES[name].get("volumes", []):
        if isinstance(volume, str):
            source, target = volume.split(":")
        else:
            source, target = defaults(volume["source"]), volume["target"]
            assert volume["bind"]["create_host_path"] is False  # root would own it
        found[target] = source
    return found


@of_every_service
def test_every_volume_is_declared_and_every_folder_is_explained(name: str) -> None:
    for source in mounts(name).values():
        if source.startswith("."):
            assert re.search(rf"^mkdir .*\b{Path(source).name}\b", GUIDE, flags=re.MULTILINE)
            assert f"/{Path(source).name}/" in (ROOT / ".gitignore").read_text().split()
        else:
            assert source in COMPOSE["volumes"]


def test_a_worker_and_the_dashboard_share_their_artifacts() -> None:
    variables = dict(word.split("=", 1) for line in DOCKERFILE if line[0] == "ENV" for word in line[1:])
    folder = variables["MERGETUNE_ARTIFACTS"]
    assert mounts("worker")[folder] == mounts("dashboard")[folder]
    assert variables["MERGETUNE_CACHE"] in mounts("worker")
    assert Path(variables["HF_HOME"]).is_relative_to(variables["MERGETUNE_CACHE"])  # or CLIP is fetched again


def test_the_folders_that_are_mounted_belong_to_the_user_of_the_image() -> None:
    made = next(line for line in DOCKERFILE if line[0] == "RUN" and "useradd" in line)
    for target in mounts("worker"):
        assert target in made[made.index("install") :]


def test_the_image_does_not_run_as_root() -> None:
    users = [line[1] for line in DOCKERFILE if line[0] == "USER"]
    assert users[-1:] == ["mergetune"]
    last = max(index for index, line in enumerate(DOCKERFILE) if line[0] == "FROM")
    assert ["USER", "mergetune"] in DOCKERFILE[last:]


def test_images_are_pinned_to_a_minor_version() -> None:
    images = [line[1] for line in DOCKERFILE if line[0] == "FROM"]
    images += [service["image"] for service in SERVICES.values() if "build" not in service]
    for image in images:
        assert re.fullmatch(r"[\w/]+:\d+\.\d+(\.\d+)?-[\w-]+", image), image


def test_the_image_is_slim_and_has_no_compiler() -> None:
    assert all("-slim" in line[1] for line in DOCKERFILE if line[0] == "FROM")
    text = (ROOT / "Dockerfile").read_text()
    assert "apt-get" not in text
    assert "--only-binary :all:" in text


def test_what_is_copied_into_the_image_exists_and_is_not_kept_from_it() -> None:
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and rule[0] != "#"]
    assert rules[0] == "*"
    let_in = [rule[1:].rstrip("/") for rule in rules if rule.startswith("!")]
    for line in DOCKERFILE:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in line[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, rule) for rule in let_in), source
    copied = {source for line in DOCKERFILE if line[0] == "COPY" for source in line[1:-1]}
    assert copied >= {"basics", "optimizer", "studies", "scorers", "search_spaces", "pyproject.toml"}
