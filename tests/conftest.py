"""What all tests share: the device, the command line in an empty folder, and skipping tests that need a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from optimizer.system.cores import wait_without_spinning

if TYPE_CHECKING:
    from command_line import Call

wait_without_spinning()  # several tests run at once; pytest imports this module before any that imports torch

# Machines with a card often have less than `.[test]` installed: `pytest -m cuda` must not fail at an import there.
collect_ignore = [] if find_spec("prometheus_client") else ["integration/test_observing.py"]

# The first use of a kernel loads it, which takes far longer than running it, and other work on the machine delays any
# test. Tests that hang meet pytest's own time limit. The profile is loaded here, before test modules make settings of
# their own.
settings.register_profile("mergetune", deadline=None)
settings.load_profile("mergetune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a CUDA device on machines without one."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch  # late, because many tests do not need it

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder, made the current one, without settings from the environment."""
    from command_line import enter  # late, because many tests do not need it

    return enter(tmp_path, monkeypatch)


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Give the call of `mergetune ARGUMENTS` in this process and folder."""
    from command_line import caller

    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[object]:
    """Give a torch.device: the CPU, and a card if there is one, which computes in full float32 as references do."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield torch.device(request.param)
