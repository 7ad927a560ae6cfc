"""Names as people give them: long ones, which no table cuts, and names in any script, as files and keyboards have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import Call, caller, enter
from demo_study import DEMO, SMALL, write_spec

LONG = "anime-portraits-and-landscapes-with-ten-loras.second-try.v12"
LONG_SCORER = "sharpness_of_every_picture_as_it_was_measured_on_the_twelfth_of_may"
CHANGES = {**SMALL, "budget": {"trials": 3}, "probes": {"uniform": [0.5], "profiles": 0}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def test_what_is_piped_has_whole_names_on_its_lines(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    parents = []
    for name in ("animals", "foods"):
        parents.append(folder / f"{name}-pruned-emaonly-fp16-{'x' * 60}.safetensors")
        shutil.copy(DEMO / f"{name}.safetensors", parents[-1])
    changes = {
        **CHANGES,
        "parents": list(map(str, parents)),
        "scorers": {LONG_SCORER: {"kind": "sharpness"}, "contrast": None},
        "objective": None,
        "final": {"top": 1},
    }
    started = call("study", "start", write_spec(folder / "a.yaml", **changes, study=LONG), code=0).out
    assert all(parent.name in started for parent in parents)
    listed = call("study", "list", code=0).out
    row = next(line for line in listed.splitlines() if LONG in line)
    assert f"{parents[0].stem} + {parents[1].stem}" in row
    shown = call("study", "show", LONG, "--trials", code=0).out
    assert LONG_SCORER in shown
    other = {**changes, "objectives": [LONG_SCORER, "contrast"]}
    call("study", "start", write_spec(folder / "b.yaml", **other, study=f"{LONG[:-1]}b"), code=0)
    assert f"{LONG_SCORER} (higher is better)" in call("study", "show", f"{LONG[:-1]}b", code=0).out
    compared = call("study", "compare", LONG, f"{LONG[:-1]}b", code=0).out
    assert any(LONG in line and f"{LONG[:-1]}b" in line for line in compared.splitlines())
    assert "…" not in started + listed + shown + compared
    inspected = call("inspect", parents[0], "--no-check", code=0).out
    assert parents[0].name in inspected
