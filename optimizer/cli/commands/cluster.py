"""`mergetune cluster ...`: workers on the machines of an existing Ray cluster, restarted by Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.messages import counted, first_line
from optimizer.cli.common import (
    ArtifactFolder,
    CacheFolder,
    Storage,
    console,
    escaped,
    fail,
)
from optimizer.cli.views.help import Commands
from optimizer.cli.workers.assignment import ModelOption, StudyNames, assigned
from optimizer.cli.workers.local_workers import worker_count
from optimizer.system.cores import WAIT_POLICY
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from optimizer.cli.workers.ray_worker import State

app = Commands(help="Workers as actors of a Ray cluster, one for each GPU.")

NAMESPACE = "mergetune"
PREFIX = "worker-"
ANSWER_SECONDS = 10.0

Address = Annotated[
    str, typer.Option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="Of the Ray cluster's head.")
]
ClusterWorkers = Annotated[
    str, typer.Option("--workers", metavar="N|auto", help="Workers to start; auto: one for each GPU of the cluster.")
]


@app.command()
def start(
    address: Address,
    study: StudyNames = None,
    models: ModelOption = None,
    workers: ClusterWorkers = "auto",
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
) -> None:
    """Start workers on a Ray cluster; they take trials until `mergetune cluster stop`."""
    count = worker_count(workers)
    assignment, database = assigned(storage, study, models, artifacts, cache)
    database.close()
    from optimizer.cli.workers.ray_worker import RayWorker

    with _connected(address) as ray:
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
        words = f"{counted(len(there), 'worker')} in the cluster"
        console.print(f"{words}; see: mergetune cluster status", soft_wrap=True)


@app.command()
def status(address: Address) -> None:
    """List the workers of a Ray cluster."""
    from optimizer.cli.views.tables import FoldingTable

    with _connected(address) as ray:
        table = FoldingTable("workers")
        for head in ("worker", "machine", "process", "GPU", "what it does"):
            table.head(head)
        for name, state in _states(ray).items():
            if state is None:
                table.add_row(name, "", "", "", "waits for a free GPU or CPU, or is being started again")
            else:
                table.add_row(name, state.host, str(state.pid), state.gpus, escaped(state.ended or state.doing))
        console.print(table)


@app.command()
def stop(
    address: Address, now: Annotated[bool, typer.Option("--now", help="Do not let them finish their trials.")] = False
) -> None:
    """Let the workers finish their trials and leave. Ray goes on."""
    with _connected(address) as ray:
        names = _names(ray)
        waiting = {} if now else {name: _ask(ray, name) for name in names}
        with console.status("the workers finish their trials"):
            while any(leaving and not _has_ended(ray, name) for name, leaving in waiting.items()):
                time.sleep(1)
        for name in names:
            with contextlib.suppress(ValueError):  # it has just gone by itself
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
        console.print(f"{counted(len(names), 'worker has', 'workers have')} left")


# --------------------------------------------------------------------------------------------- actors


def _names(ray: Any) -> set[str]:
    rows = ray.util.list_named_actors(all_namespaces=True)
    return {row["name"] for row in rows if row["namespace"] == NAMESPACE and row["name"].startswith(PREFIX)}


def _states(ray: Any) -> dict[str, State | None]:
    """Return the state of every worker, by number; None for one that does not answer."""
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
    """Ask a worker to leave; return whether it has heard."""
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
def _connected(address: str) -> Iterator[Any]:
    """Give the `ray` module, connected to a cluster."""
    if find_spec("ray") is None:
        fail("mergetune cluster needs Ray: pip install 'mergetune[ray]'")
    _require_listener(address)
    import ray

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        fail(f"the Ray cluster at {address} cannot be used ({first_line(error)}): see `ray status`")
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """End the command unless something listens at an address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        fail(f"--address takes HOST:PORT of a Ray cluster's head, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        fail(f"no Ray cluster at {address} ({error}): name the host and port of its head")
