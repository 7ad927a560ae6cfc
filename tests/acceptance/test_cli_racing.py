"""A study with racing from the command line, as a user types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import run_program
from demo_study import short_spec, write_spec

pytestmark = pytest.mark.slow  # what racing does is tested without the command line too


def run(folder: Path, *arguments: str) -> str:
    """On one line, wherever a table breaks it."""
    return " ".join(run_program(folder, *arguments).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_spec(
        folder / "short.yaml",
        suite=short_spec()["suite"] | {"seeds": [1, 2], "steps": 3},
        racing={"batch": 8, "confidence": 0.8},
        probes={"uniform": [0.5, 0.05], "profiles": 0},
        budget={"trials": 4},
        render={"degenerate_limit": 16},
        final={"top": 0},
    )
    (folder / "told.txt").write_text(run(folder, "study", "start", "short.yaml"))
    return folder


def test_a_stopped_trial_is_told_as_such_while_the_study_runs(folder: Path) -> None:
    told = (folder / "told.txt").read_text()
    plain = " ".join(told.replace("│", " ").split())
    assert "a trial behind the best with confidence 0.8 is stopped after 8 of 16 images" in plain
    assert "4 trials, at most 64 images" in plain
    assert re.search(r"trial 3, 4/4 \| uniform 0.05 stopped after 8 of 16 images: objective about [\d.]+ \|", told)
    assert "4 trials complete (1 of them stopped early, which saved 8 images), 0 failed" in told


def test_stopped_trials_are_marked_in_the_list(folder: Path) -> None:
    shown = run(folder, "study", "show", "short", "--trials")
    assert "~ marks an estimate" in shown
    assert re.search(r"uniform 0.05 │[^│]*stopped", shown)
    assert len(re.findall(r"│ ~\d", shown)) == 1
    assert "best: trial 2 (best observed)" in shown


def test_a_stopped_trial_is_exported_by_its_number_alone(folder: Path) -> None:
    assert "(trial 2, uniform 0.5)" in run(folder, "export", "short", "--recipe", "best.yaml")
    done = run(folder, "export", "short", "--trial", "3")
    assert "trial 3 was stopped after 8 of 16 images: its objective is an estimate" in done
    assert "and the 8 renders that were scored are identical, to the bit, to those of the file" in done
