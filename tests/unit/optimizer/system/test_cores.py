"""OpenMP's threads sleep while they wait, in a command that loads torch, unless the user wants otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP tells how long its threads spin")

COMMAND = """
import os, sys
from optimizer.cli import main

sys.argv = ["mergetune", "inspect", os.environ["NO_MODEL"]]  # torch is imported, and the file refused
main.run()
"""


def spins(folder: Path, policy: str | None) -> int:
    """How often OpenMP's threads look before they sleep, as it says itself when a command loads torch.

    Args:
        folder: for a file that is no checkpoint.
        policy: OMP_WAIT_POLICY in the command's environment; None where it is not set there.
    """
    (folder / "no.safetensors").touch()
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT)}
    environment["NO_MODEL"] = str(folder / "no.safetensors")
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert found, done.stderr
    return int(found[0])


def test_threads_sleep_while_they_wait(tmp_path: Path) -> None:
    assert spins(tmp_path, None) == 0


def test_the_users_own_policy_stays(tmp_path: Path) -> None:
    assert spins(tmp_path, "ACTIVE") > 0
