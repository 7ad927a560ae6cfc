"""Additional workers of a study on this machine, as separate processes, one for each GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from optimizer.cli.common import console, fail, print_error

if TYPE_CHECKING:
    import torch

AUTO = "auto"
PORT_VARIABLE = "MERGETUNE_METRICS"  # names a port that this process uses already
# Windows: Ctrl-C goes to a whole group, and only a group can be asked to stop
if sys.platform == "win32":
    GROUP: Final = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    GROUP: Final = 0
LEAVING_SECONDS = 20.0  # that a worker has to exit once it was asked twice

Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        help="Number of workers on this machine, spread over its GPUs; auto: one for each GPU.",
    ),
]


def worker_count(text: str) -> int | None:
    """Return the number given with `--workers`; None: one for each GPU."""
    if text == AUTO:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        fail(f"--workers takes a number from 1 to 256, or auto; got {text!r}")
    return int(text)


def environments(count: int | None, device: torch.device) -> list[dict[str, str]]:
    """Return the environment variables that each worker needs in addition to ours; the first entry is for this process.

    Args:
        count: the number of workers; None: one for each GPU.
    """
    import torch

    if device.type != "cuda":
        # All workers have the same number of threads, or their sums would be rounded differently.
        threads = max(1, torch.get_num_threads() // (count or 1))
        return [{"OMP_NUM_THREADS": str(threads)}] * (count or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": names[index % len(names)]} for index in range(count or len(names))]


@dataclass(frozen=True)
class _LocalWorker:
    """A worker's process."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]  # its stderr

    def failure(self) -> str | None:
        """Return the last line of its stderr if it failed, else None."""
        if self.process.returncode in {0, -signal.SIGTERM}:
            return None
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


@contextmanager
def local_workers(
    study: str, variables: Sequence[Mapping[str, str]], stop: threading.Event, folders: Sequence[Path] = ()
) -> Iterator[list[_LocalWorker]]:
    """Run additional workers while the block runs; at its end, wait until they have finished their trials.

    Args:
        variables: the environment variables of each worker, in addition to this process's.
        stop: when it is set, the workers are asked to stop.
        folders: where they find the study's files, if those have moved.
    """
    workers = [_start(study, added, folders) for added in variables]
    over = threading.Event()

    def forward_stop() -> None:
        while not over.wait(0.2):
            if stop.is_set():
                _ask_to_stop(workers)
                return

    thread = threading.Thread(target=forward_stop, name="local_workers", daemon=True)
    thread.start()
    try:
        yield workers
        _join(workers)
    except BaseException:
        _ask_to_stop(workers)
        # Asked twice, they exit at once. The second signal differs, as two equal ones may be delivered as one.
        _ask_to_stop(workers, signal.SIGINT)
        for worker in workers:
            try:
                worker.process.wait(LEAVING_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        raise
    finally:
        over.set()
        thread.join()
        for worker in workers:
            worker.errors.close()


def _start(study: str, variables: Mapping[str, str], folders: Sequence[Path]) -> _LocalWorker:
    """Start a worker in a session of its own: Ctrl-C reaches only this process, which forwards it once."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `local_workers`
    arguments = ["worker", "--study", study, "--until-done", "--no-final"]
    arguments += [part for folder in folders for part in ("--models", str(folder))]
    process = subprocess.Popen(  # noqa: S603 - this program, with a name from the database
        [sys.executable, "-m", "optimizer.cli", *arguments],
        env={name: value for name, value in os.environ.items() if name != PORT_VARIABLE} | dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        creationflags=GROUP,
    )
    return _LocalWorker(process, errors)


def _ask_to_stop(workers: list[_LocalWorker], how: signal.Signals = signal.SIGTERM) -> None:
    if sys.platform == "win32":  # which knows no other signal for a group of processes
        how = signal.CTRL_BREAK_EVENT
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(how)


def _join(workers: list[_LocalWorker]) -> None:
    if any(worker.process.poll() is None for worker in workers):
        with console.status("waiting for the other workers to finish their trials"):
            for worker in workers:
                worker.process.wait()
    for number, worker in enumerate(workers, start=2):
        if (failure := worker.failure()) is not None:
            print_error(f"worker {number}", failure)


def options_as_variables(storage: str, artifacts: str | Path | None, cache: Path) -> dict[str, str]:
    """Return a command's options as environment variables of additional workers.

    An argument could be seen in the process list, and the database's URL may contain a password.
    """
    settings = {"MERGETUNE_STORAGE": storage, "MERGETUNE_CACHE": str(cache)}
    return settings if artifacts is None else settings | {"MERGETUNE_ARTIFACTS": str(artifacts)}
