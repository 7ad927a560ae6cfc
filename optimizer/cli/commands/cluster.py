"""`mergetune cluster ...`: workers on the machines of a Ray cluster, restarted by Ray."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.messages import first_line
from optimizer.cli.common import (
    DEFAULT_STORAGE,
    ArtifactFolder,
    CacheFolder,
    Storage,
    cache_folder,
    console,
    escaped,
    fail,
)
from optimizer.cli.workers.assignment import ModelOption, StudyNames, assigned
from optimizer.cli.workers.local_workers import Workers, worker_count
from optimizer.system.cores import WAIT_POLICY

if TYPE_CHECKING:
    from optimizer.cli.workers.ray_worker import State

app = typer.Typer(help="Workers as actors of a Ray cluster, one for each GPU.", no_args_is_help=True)

NAMESPACE = "mergetune"
PREFIX = "worker-"
ANSWER_SECONDS = 10.0
START_SECONDS = 60.0
LOOPBACK = "127.0.0.1"

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help="Of an existing Ray cluster's head, HOST:PORT. [default: one on this machine, which `start` starts]",
        show_default=False,
    ),
]


@app.command()
def start(
    study: StudyNames = None,
    models: ModelOption = None,
    workers: Workers = "auto",
    address: Address = None,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Start workers on a Ray cluster; they take trials until `mergetune cluster stop`."""
    from optimizer.cli.workers.ray_worker import RayWorker

    count = worker_count(workers)
    assignment, database = assigned(storage, study, models, artifacts, cache)
    database.close()
    caches = cache_folder(cache)
    with _connected(address, caches, may_start=True) as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        share = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        # Before anything of ours is imported there: what an actor is given imports torch already.
        surroundings = {"env_vars": {WAIT_POLICY: os.environ[WAIT_POLICY]}}
        options = {"lifetime": "detached", "max_restarts": -1, "max_concurrency": 4, "runtime_env": surroundings}
        actor = ray.remote(RayWorker)
        there = _names(ray)
        for _ in range(count or max(gpus, 1)):
            name = next(name for index in range(10**6) if (name := f"{PREFIX}{index}") not in there)
            there.add(name)
            actor.options(name=name, **options, **share).remote(assignment)
        told = f"{len(there)} {'worker' if len(there) == 1 else 'workers'} in the cluster"
        console.print(f"{told}; see: mergetune cluster status", soft_wrap=True)


@app.command()
def status(address: Address = None, cache: CacheFolder = None) -> None:
    """List the workers of a Ray cluster."""
    from rich.table import Table

    with _connected(address, cache_folder(cache)) as ray:
        table = Table("worker", "machine", "process", "GPU", "what it does", title="workers", title_justify="left")
        for name, state in _states(ray).items():
            if state is None:
                table.add_row(name, "", "", "", "waits for a free GPU or CPU, or is being started again")
            else:
                table.add_row(name, state.host, str(state.pid), state.gpus, escaped(state.ended or state.doing))
        console.print(table)


@app.command()
def stop(
    address: Address = None,
    cache: CacheFolder = None,
    now: Annotated[bool, typer.Option("--now", help="Do not let them finish their trials.")] = False,
) -> None:
    """Let the workers finish their trials and leave; end the Ray that `start` has started."""
    caches = cache_folder(cache)
    with _connected(address, caches) as ray:
        names = _names(ray)
        waiting = {} if now else {name: _ask(ray, name) for name in names}
        with console.status("the workers finish their trials"):
            while any(leaving and not _has_ended(ray, name) for name, leaving in waiting.items()):
                time.sleep(1)
        for name in names:
            with contextlib.suppress(ValueError):  # it has just gone by itself
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
        console.print(f"{len(names)} {'worker has' if len(names) == 1 else 'workers have'} left")
    _end_own_ray(caches)


# --------------------------------------------------------------------------------------------- actors


def _names(ray: Any) -> set[str]:
    rows = ray.util.list_named_actors(all_namespaces=True)
    return {row["name"] for row in rows if row["namespace"] == NAMESPACE and row["name"].startswith(PREFIX)}


def _states(ray: Any) -> dict[str, State | None]:
    """Of every worker, by number; None for one that does not answer."""
    names = sorted(_names(ray), key=lambda name: int(name.removeprefix(PREFIX)))
    asked = {name: ray.get_actor(name, namespace=NAMESPACE).state.remote() for name in names}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    return {name: _answer(ray, reference) if reference in ready else None for name, reference in asked.items()}


def _answer(ray: Any, reference: Any) -> State | None:
    try:
        state: State = ray.get(reference)
    except ray.exceptions.RayActorError:
        return None
    return state


def _ask(ray: Any, name: str) -> bool:
    """Ask a worker to leave; whether it has heard."""
    try:
        ray.get(ray.get_actor(name, namespace=NAMESPACE).leave.remote(), timeout=ANSWER_SECONDS)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ValueError):
        return False
    return True


def _has_ended(ray: Any, name: str) -> bool:
    try:
        state: State = ray.get(ray.get_actor(name, namespace=NAMESPACE).state.remote(), timeout=ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError:  # it is busy: it may be loading models
        return False
    except (ray.exceptions.RayActorError, ValueError):
        return True
    return state.ended is not None


# ------------------------------------------------------------------------------------------------ Ray


@contextlib.contextmanager
def _connected(address: str | None, caches: Path, *, may_start: bool = False) -> Iterator[Any]:
    """The `ray` module, connected to a cluster: the one named, or our own."""
    if find_spec("ray") is None:
        fail("mergetune cluster needs Ray: pip install 'mergetune[ray]'")
    own = _own_ray(caches)
    if address is None and own is None and not may_start:
        fail("no Ray cluster was started here: begin with `mergetune cluster start`, or name its head with --address")
    chosen = address or (own["address"] if own else _start_own_ray(caches))
    _require_listener(chosen)
    if address is None:
        os.environ.update(_own_environment(caches))
    import ray  # reads its environment now

    try:
        ray.init(address=chosen, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        fail(f"the Ray cluster at {chosen} cannot be used ({first_line(error)}): see `ray status`")
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        fail(f"--address takes HOST:PORT of a Ray cluster's head, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        fail(f"no Ray cluster at {address} ({error}): name the host and port of its head")


def _note(caches: Path) -> Path:
    return caches / "ray.json"


def _own_environment(caches: Path) -> dict[str, str]:
    """What keeps our Ray to this machine and this user.

    Ray takes loopback for the machine's address outside only when told to: by this variable, on Linux as well. Whoever
    reaches it may run code, so it wants a token, and takes it from a file that nobody else can read: the one file of
    ours that does not take its permissions from the umask.
    """
    token = caches / "ray.token"
    if not token.exists():
        caches.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def _own_ray(caches: Path) -> dict[str, Any] | None:
    """Address and process of the Ray that we have started, if it still runs."""
    from studies.system.processes import is_running

    try:
        found = json.loads(_note(caches).read_text())
        running = is_running(int(found["pid"]), found["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if running else None


def _start_own_ray(caches: Path) -> str:
    """A Ray of this machine alone, which listens on loopback and outlives this command; its address."""
    from studies.system.processes import process_identity

    command = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if command is None:
        fail("the `ray` command is not beside this Python: pip install 'mergetune[ray]'")
    port = _free_port()
    words = ["start", "--head", "--block", f"--node-ip-address={LOOPBACK}", f"--port={port}",
             "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    with console.status("starting Ray on this machine"):
        process = subprocess.Popen(  # noqa: S603 - the command that belongs to the library
            [command, *words],
            env=os.environ | _own_environment(caches),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _await_port(process, port)
    caches.mkdir(parents=True, exist_ok=True)
    address = f"{LOOPBACK}:{port}"
    told = {"address": address, "pid": process.pid, "process": process_identity(process.pid)}
    _note(caches).write_text(json.dumps(told))
    return address


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.2)
    process.kill()
    fail(f"Ray did not start within {START_SECONDS:.0f} seconds: try `ray start --head --block`, which says why")


def _end_own_ray(caches: Path) -> None:
    own = _own_ray(caches)
    if own is None:
        return
    os.kill(own["pid"], signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while _own_ray(caches) is not None and time.monotonic() < deadline:
        time.sleep(0.2)
    _note(caches).unlink(missing_ok=True)
    console.print("the Ray of this machine has ended")
