"""docker/one-gpu: replicas of one service, each given the same GPUs, spread over them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "one-gpu"
TELL = ["sh", "-c", 'echo "gpu ${CUDA_VISIBLE_DEVICES-none}"; exec sleep 60']

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock of util-linux")


class Replicas:
    """Processes behind one-gpu, as containers with the same volume would be."""

    def __init__(self, folder: Path, gpus: int) -> None:
        (folder / "places").mkdir()
        (folder / "dev").mkdir()
        for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(gpus))):
            (folder / "dev" / name).touch()
        self._command = [str(SCRIPT), str(folder / "places"), *TELL]
        self._environment = os.environ | {"ONE_GPU_NODES": str(folder / "dev")}
        self._environment.pop("CUDA_VISIBLE_DEVICES", None)
        self.running: list[subprocess.Popen[str]] = []

    def start(self) -> str:
        """What the new one was told; empty when it was refused."""
        process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def kill(self, index: int) -> None:
        process = self.running.pop(index)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)

    def end(self) -> None:
        while self.running:
            self.kill(0)


@pytest.fixture
def replicas(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    started = Replicas(tmp_path, request.param)
    yield started
    started.end()


@pytest.mark.parametrize("replicas", [3], indirect=True)
def test_replicas_spread_over_the_gpus_and_take_a_killed_ones_place(replicas: Replicas) -> None:
    assert [replicas.start() for _ in range(5)] == ["gpu 0", "gpu 1", "gpu 2", "gpu 0", "gpu 1"]
    replicas.kill(2)
    assert replicas.start() == "gpu 2"
    assert replicas.start() == "gpu 2"


@pytest.mark.parametrize("replicas", [0], indirect=True)
def test_without_a_gpu_the_command_runs_as_it_is(replicas: Replicas) -> None:
    assert replicas.start() == "gpu none"


@pytest.mark.parametrize("replicas", [1], indirect=True)
def test_a_gpu_that_is_full_refuses_the_next(replicas: Replicas) -> None:
    assert [replicas.start() for _ in range(9)] == ["gpu 0"] * 8 + [""]
    assert replicas.running[-1].wait(10) == 2
