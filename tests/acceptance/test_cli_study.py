"""A study from the command line as a user types it: real processes, real signals, a real browser."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import browser as browsers
import pytest
from command_line import Call, caller, enter, run_in
from demo_study import write_spec
from safetensors import safe_open

MERGETUNE = [sys.executable, "-m", "optimizer.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was started, interrupted by Ctrl-C, and resumed to its end."""
    folder = tmp_path_factory.mktemp("user")
    write_spec(folder / "short.yaml")
    process = subprocess.Popen(
        [*MERGETUNE, "study", "start", "short.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith("trial 2, 3/13"):
            process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(timeout=120) == 0, seen
    assert 'Continue with: mergetune study resume "short"' in seen
    line = r"trial 2, 3/13 \| uniform 0.25: objective .*gain .*merge .* s, render .* s, score .* s"
    assert re.search(line, seen), seen
    resumed = run_in(folder, "study", "resume", "short")
    assert "trial 12, 13/13" in resumed
    assert "trial 2, 3/13" not in resumed
    assert "final 7/7: trial " in resumed
    assert re.search(r"^report: .*/short~\w+-report\.html$", resumed, flags=re.MULTILINE)
    return folder


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The call of `mergetune ARGUMENTS` in this process, and in the folder of the study unless a test goes on."""
    enter(folder, monkeypatch)
    return caller(monkeypatch, capsys)


def test_a_finished_study_is_listed_and_shown(call: Call) -> None:
    assert "13/13" in call("study", "list", code=0).out
    shown = call("study", "show", "short", "--trials", code=0).out
    assert "parent A" in shown
    assert "best" in shown
    assert "13 trials complete, 0 failed" in shown


def test_resuming_a_finished_study_says_how_to_add_trials(call: Call) -> None:
    assert "--trials N" in call("study", "resume", "short.yaml", code=0).out


def verdict(shown: str) -> str:
    """The held-out gain as it was told, whichever model it speaks for."""
    found = re.search(r"held-out gain: objective [+-][\d.e+-]+ \([^)]*\) over parent [AB]", shown)
    assert found is not None, shown
    return found[0]


@pytest.mark.slow
def test_the_final_is_held_when_the_budget_is_spent_and_shown_again_without_rendering(call: Call) -> None:
    shown = call("study", "show", "short", code=0).out
    assert "8 images that the search never saw" in shown
    assert "final 1/" not in shown
    again = call("study", "finish", "short", code=0).out
    assert "final 7/7" in again
    assert verdict(again) == verdict(shown)
    assert "outdated" not in again
    assert "final 1/" not in call("study", "resume", "short", code=0).out


def test_best_is_what_the_final_chose_until_a_trial_outdates_it(
    folder: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = [sqlite3.connect(place / "mergetune.db") for place in (folder, tmp_path)]
    with closing(databases[0]) as source, closing(databases[1]) as copy:
        source.backup(copy)
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mergetune.db")) as database:
        query = (
            "SELECT finalist.number FROM mergetune_finals finalist JOIN mergetune_trials trial USING (number) WHERE "
            "finalist.origin NOT LIKE 'parent %' ORDER BY json_extract(trial.objectives, '$.objective')"
        )
        last = next(number for (number,) in database.execute(query))  # the worst observed of the candidates
        with database:
            database.execute("UPDATE mergetune_finals SET chosen = (number = ?)", (last,))
            surely = """json_set(held_out, '$.objective', json('[0.4, 0.2, 0.6, "B"]'))"""
            database.execute(f"UPDATE mergetune_finals SET held_out = {surely} WHERE chosen")
        said = call("export", "short", "--recipe", "winner.yaml", code=0).out
        assert f"best: trial {last} (the final's choice): +0.4 (+0.2 to +0.6) held out" in said
        assert f"(trial {last}, " in said
        assert "best (the final's choice): " in call("study", "show", "short", code=0).out
        with database:
            database.execute("UPDATE mergetune_finals SET complete_trials = complete_trials - 1")
    said = call("export", "short", "--recipe", "observed.yaml", code=0).out
    assert "the final is outdated" in said
    assert f"(trial {last}, " not in said
    assert 'mergetune study finish "short"' in call("study", "show", "short", code=0).out


def test_starting_it_again_is_refused_and_offers_resume(call: Call) -> None:
    assert 'mergetune study resume "short"' in call("study", "start", "short.yaml", code=2).err


def test_the_best_is_exported_proven_and_never_overwritten_by_accident(folder: Path, call: Call) -> None:
    said = call("export", "short", "-o", "best.safetensors", code=0).out
    assert "tensors of the file are equal, to the bit, to the merge in memory" in said
    assert "all 8 renders of the file are identical, to the bit, to those that were scored" in said
    with safe_open(folder / "best.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["mergetune.study"])["name"] == "short"
    before = (folder / "best.safetensors").read_bytes()
    assert "--force" in call("export", "short", "-o", "best.safetensors", code=2).err
    assert (folder / "best.safetensors").read_bytes() == before
    inspected = call("inspect", "best.safetensors", code=0).out
    assert "sd15" in inspected
    assert "mergetune.recipe" in inspected


def test_the_contact_sheet_shows_parents_and_best(folder: Path) -> None:
    from PIL import Image

    (file,) = (folder / "mergetune-artifacts").glob("short~*-best.png")
    with Image.open(file) as sheet:
        assert sheet.width > 400
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000


@pytest.fixture(scope="module")
def dashboard(folder: Path) -> Iterator[str]:
    """Address of a running dashboard."""
    process = subprocess.Popen([*MERGETUNE, "dashboard", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert found is not None
    try:
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def test_the_dashboard_serves_the_study(dashboard: str) -> None:
    with urllib.request.urlopen(f"{dashboard}/api/studies", timeout=30) as reply:
        assert json.load(reply)["study_summaries"][0]["study_name"] == "short"


@pytest.mark.skipif(not browsers.IS_THERE, reason=browsers.WHY_NOT)
def test_a_trial_is_shown_in_a_browser_with_contact_sheet_recipe_and_gain(dashboard: str, tmp_path: Path) -> None:
    with browsers.browser(tmp_path / "profile") as browser:
        browser.open(f"{dashboard}/dashboard/studies/1/trials?numbers=2", width=1400)
        browser.wait_for("[...document.images].some(image => image.naturalWidth > 500)")  # the contact sheet
        text = browser.text
        browser.screenshot(Path(os.environ.get("MERGETUNE_SCREENSHOT", str(tmp_path / "dashboard.png"))))
    assert "uniform 0.25" in text
    assert "gain over the better parent" in text
    assert "IN00" in text
