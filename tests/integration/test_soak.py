"""A short soak: several workers, killed at random moments, on both kinds of database. `make soak` runs a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_databases import new_postgresql_url

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    urls = (f"sqlite:///{tmp_path}/soak.db", new_postgresql_url())
    done = subprocess.run(
        [sys.executable, str(TESTS / "soak.py"), str(tmp_path), "--trials", "20", "--url", *urls],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed " in done.stdout
    assert done.stdout.count("20 trials, 4 workers") == 2
    assert " 0 killed" not in done.stdout, done.stdout
