"""The demo as `make demo` runs it, to the end: what the README promises of it holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials
from studies.records.database import open_database
from studies.records.stored_renders import load_scores
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials


@pytest.mark.slow
@pytest.mark.timeout(1800)  # nine minutes beside other work
def test_the_demo_finds_proves_and_exports_a_merge_better_than_both_parents(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optimizer.cli", "demo", "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    database = open_database(f"sqlite:///{tmp_path}/run/demo.db", create=False)
    records = open_study(database, "demo")
    rows = load_trials(records)
    assert [row.state for row in rows] == ["complete"] * 30

    (best,) = best_trials(rows, Objective.of_study(records.study))
    gain = best.gains["objective"]
    assert best.origin.kind not in {"parent", "uniform"}
    assert gain.low is not None
    assert gain.low > 0
    held_out = re.search(r"held-out gain: objective \+[\d.]+ \(([+-][\d.]+) to", done.stdout)
    assert held_out is not None
    assert float(held_out[1]) > 0

    # Each parent is the better one in its own half of the suite.
    scores = {letter: load_scores(records, row)[0]["clip_score"] for letter, row in parent_trials(rows).items()}
    half = len(scores["A"]) // 2
    assert sum(scores["A"][:half]) > sum(scores["B"][:half])
    assert sum(scores["A"][half:]) < sum(scores["B"][half:])

    assert "tensors of the file are equal, to the bit, to the merge in memory" in done.stdout
    assert "renders of the file are identical, to the bit, to those that were scored" in done.stdout
    (report,) = (tmp_path / "run" / "demo-artifacts").glob("demo~*-report.html")
    assert report.name in done.stdout
    with safe_open(tmp_path / "run" / "best-merge.safetensors", framework="pt") as file:
        assert "mergetune.recipe" in file.metadata()
