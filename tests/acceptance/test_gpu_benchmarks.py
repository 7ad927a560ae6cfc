"""The run of a GPU machine, in small: nothing of it should fail for the first time while a card is waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
# All but the tests, which are skipped without a card, and the demo, which has a test of its own.
PARTS = ("demo-trial", "files", "sd15-render", "sdxl-render", "sdxl-trial", "sdxl-proof", "merge")
MARKS = ("<!-- GPU figures: benchmarks/gpu/report.py -->", "<!-- end of the GPU figures -->")
TABLES = ("### A trial: cpu", "plain diffusers loop", "memory of a step", "sdxl cpu, weighted_sum of 2", "draws")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_runs_and_its_figures_are_tabulated(tmp_path: Path) -> None:
    out, files, page = tmp_path / "out", tmp_path / "files", tmp_path / "page.md"
    run = (sys.executable, str(GPU / "run.py"), "--small", "--minutes", "25", "--out", str(out), "--files", str(files))
    done = subprocess.run((*run, "--parts", *PARTS), capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert [part["part"] for part in json.loads((out / "summary.json").read_text())] == list(PARTS)
    assert "equal, to the bit, to the merge in memory" in (out / "sdxl-proof.log").read_text()

    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert {record["part"] for record in records} == {"trial", "render", "graphs", "merge", "draws"}
    assert all(record["equal"] for record in records if record["part"] == "graphs")

    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    report = (sys.executable, str(GPU / "report.py"), str(out / "records.jsonl"), "--write", str(page))
    subprocess.run(report, check=True, timeout=60)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for table in TABLES:
        assert table in text
