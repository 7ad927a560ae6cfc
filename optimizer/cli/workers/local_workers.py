"""Further workers of one study on this machine: processes of their own, one for each GPU."""

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
from typing import IO, TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import console, fail, print_error

if TYPE_CHECKING:
    import torch

AUTO = "auto"
PORT_VARIABLE = "MERGETUNE_METRICS"  # a port that this process has already
LEAVING_SECONDS = 20.0  # for a worker that was asked twice

Workers = Annotated[
    str,
    typer.Option(
        "--workers", metavar="N|auto", help="Workers on this machine, spread over its GPUs; auto: one for each GPU."
    ),
]


def worker_count(text: str) -> int | None:
    """Read the number of `--workers`; None for one for each GPU."""
    if text == AUTO:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        fail(f"--workers takes a number from 1 to 256, or auto; got {text!r}")
    return int(text)


def environments(count: int | None, device: torch.device) -> list[dict[str, str]]:
    """Return what each worker's environment has beyond this process's. The first is that of this process itself."""
    import torch

    if device.type != "cuda":
        threads = max(1, torch.get_num_threads() // (count or 1))  # for all, or sums would round differently
        return [{"OMP_NUM_THREADS": str(threads)}] * (count or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": names[index % len(names)]} for index in range(count or len(names))]


@dataclass(frozen=True)
class _LocalWorker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def complaint(self) -> str | None:
        """The last line it wrote to stderr, if it ended badly."""
        if self.process.returncode in {0, -signal.SIGTERM}:
            return None
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


@contextmanager
def local_workers(
    study: str, surroundings: Sequence[Mapping[str, str]], stop: threading.Event
) -> Iterator[list[_LocalWorker]]:
    """Workers beside this one while the block runs; at its end they finish their trials.

    Args:
        surroundings: the environment of each, beyond this process's.
        stop: when it is set, they are asked to leave.
    """
    workers = [_start(study, more) for more in surroundings]
    over = threading.Event()

    def pass_on() -> None:
        while not over.wait(0.2):
            if stop.is_set():
                _ask(workers)
                return

    thread = threading.Thread(target=pass_on, name="local_workers", daemon=True)
    thread.start()
    try:
        yield workers
        _join(workers)
    except BaseException:
        _ask(workers)
        _ask(workers, signal.SIGINT)  # a second time, they leave at once; two of a kind might arrive as one
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


def _start(study: str, more: Mapping[str, str]) -> _LocalWorker:
    """Apart from the terminal: its Ctrl-C reaches this process alone, which passes it on once."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `local_workers`
    words = ["worker", "--study", study, "--until-done", "--no-final"]
    process = subprocess.Popen(  # noqa: S603 - this program, with a name that the database knows
        [sys.executable, "-m", "optimizer.cli", *words],
        env={name: value for name, value in os.environ.items() if name != PORT_VARIABLE} | dict(more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    return _LocalWorker(process, errors)


def _ask(workers: list[_LocalWorker], how: signal.Signals = signal.SIGTERM) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(how)


def _join(workers: list[_LocalWorker]) -> None:
    if any(worker.process.poll() is None for worker in workers):
        with console.status("the other workers finish their trials"):
            for worker in workers:
                worker.process.wait()
    for number, worker in enumerate(workers, start=2):
        if (complaint := worker.complaint()) is not None:
            print_error(f"worker {number}", complaint)


def settings_of(storage: str, artifacts: str | Path | None, cache: Path) -> dict[str, str]:
    """A command's options as the environment of further workers: no option of theirs holds a password."""
    settings = {"MERGETUNE_STORAGE": storage, "MERGETUNE_CACHE": str(cache)}
    return settings if artifacts is None else settings | {"MERGETUNE_ARTIFACTS": str(artifacts)}
