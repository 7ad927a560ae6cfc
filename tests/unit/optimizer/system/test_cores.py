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
import sys
from optimizer.cli import main

sys.argv = ["mergetune", "inspect", "missing.safetensors"]  # imports torch, and then finds no file
main.run()
"""


def spins(policy: str | None) -> int:
    """How often OpenMP's threads look before they sleep, as it says itself when a command loads torch.

    Args:
        policy: OMP_WAIT_POLICY in the command's environment; None where it is not set there.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT)}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert found, done.stderr
    return int(found[0])


def test_threads_sleep_while_they_wait() -> None:
    assert spins(None) == 0


def test_the_users_own_policy_stays() -> None:
    assert spins("ACTIVE") > 0
