"""A study killed at random moments and resumed goes the same way to the bit: tests/determinism.py, short and long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def run(folder: Path, trials: int, kills: int, timeout: float) -> int:
    """How many trials the model proposed."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "determinism.py"), str(folder), f"--trials={trials}", f"--kills={kills}"],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(
        rf"{trials} trials, (\d+) proposed by the model, {kills} killed, (\d+) trials run again", done.stdout
    )
    assert told is not None, done.stdout
    return int(told[1])


@pytest.mark.slow
def test_a_study_that_is_killed_and_resumed_goes_the_same_way_to_the_bit(tmp_path: Path) -> None:
    assert run(tmp_path, trials=10, kills=4, timeout=280) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_that_is_killed_twenty_times_goes_the_same_way_to_the_bit(tmp_path: Path) -> None:
    assert run(tmp_path, trials=40, kills=20, timeout=3500) > 20
