"""What helps in passing: slips of commands, the next command, a word at the end, completion, the browser, JSON."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Call, run_in
from demo_study import SMALL, write_spec

CHANGES = {**SMALL, "study": "first", "budget": {"trials": 3}, "probes": {"uniform": [0.5], "profiles": 0}}
MERGETUNE = [sys.executable, "-m", "optimizer.cli"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study `first` has ended; read only."""
    folder = tmp_path_factory.mktemp("ended")
    run_in(folder, "study", "start", write_spec(folder / "first.yaml", **CHANGES))
    return folder


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("first.yaml",), "type `mergetune study start first.yaml`"),
        (("study", "my spec.yml"), "type `mergetune study start 'my spec.yml'`"),
        (("a.safetensors",), "type `mergetune inspect a.safetensors`"),
        (("start", "first.yaml"), "did you mean `mergetune study start`?"),
        (("bake",), "did you mean `mergetune lora bake`?"),
        (("nonsense",), "(see `mergetune --help`)"),
    ],
)
def test_a_file_or_a_command_of_a_group_is_answered_with_what_to_type(
    call: Call, words: tuple[str, ...], advice: str
) -> None:
    assert advice in call(*words, code=2).err


def test_a_study_that_ends_names_the_next_command_and_tells_a_command(folder: Path, call: Call) -> None:
    command = f"{sys.executable} tell.py"
    (folder / "tell.py").write_text(
        "import json, os, pathlib\n"
        "told = {name: value for name, value in os.environ.items() if name.startswith('MERGETUNE_ENDED_')}\n"
        "pathlib.Path('told.json').write_text(json.dumps(told))\n"
    )
    said = call("study", "start", write_spec(folder / "first.yaml", **CHANGES), "--notify", command, code=0).out
    assert 'Next: mergetune export "first"' in said or 'Next: mergetune study show "first"' in said
    told = json.loads((folder / "told.json").read_text())
    assert told["MERGETUNE_ENDED_STUDY"] == "first"
    assert told["MERGETUNE_ENDED_OUTCOME"] == "ended"


@pytest.mark.parametrize("command", ["exit 3", pytest.param("no-such-program-anywhere", marks=pytest.mark.slow)])
def test_a_command_that_fails_is_told_and_harms_nothing(folder: Path, call: Call, command: str) -> None:
    spec = write_spec(folder / "first.yaml", **CHANGES)
    assert "--notify" in call("study", "start", spec, "--notify", command, code=0).err
    assert "3 trials complete" in call("study", "show", "first", code=0).out


def test_a_study_that_cannot_start_is_told_as_failed(folder: Path, call: Call) -> None:
    (folder / "tell.py").write_text("import os; open('outcome', 'w').write(os.environ['MERGETUNE_ENDED_OUTCOME'])")
    spec = write_spec(folder / "first.yaml", **CHANGES, parents=["absent.safetensors", "b.safetensors"])
    call("study", "start", spec, "--notify", f"{sys.executable} tell.py", code=2)
    assert (folder / "outcome").read_text() == "failed"


def test_the_bell_rings_on_a_terminal_only() -> None:
    ring = "from optimizer.cli.workers.notification import notifying\nwith notifying('bell'): pass"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", ring], stdout=theirs, env=os.environ | {"TERM": "xterm"}, check=True)
    assert os.read(ours, 99) == b"\a"
    os.close(theirs)
    os.close(ours)
    assert subprocess.run([sys.executable, "-c", ring], capture_output=True, check=True).stdout == b""


def test_results_are_printed_as_json(ended: Path, folder: Path, call: Call) -> None:
    shutil.copytree(ended, folder, dirs_exist_ok=True)
    facts = json.loads(call("study", "show", "first", "--json", code=0).out)
    assert facts["study"] == "first"
    assert [trial["origin"] for trial in facts["trials"]] == ["parent A", "parent B", "uniform 0.5"]
    merge = facts["trials"][2]
    assert set(merge["steps"][0]["B"].values()) == {0.0, 0.5}
    assert merge["scores"]["sharpness"] == pytest.approx(merge["objectives"]["objective"])
    assert facts["best"]["trial"] in {0, 1, 2}
    assert facts["ended"] is not None


def test_a_shell_completes_commands() -> None:
    asked = {"_MERGETUNE_COMPLETE": "complete_bash", "COMP_WORDS": "mergetune study re", "COMP_CWORD": "2"}
    done = subprocess.run(MERGETUNE, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert {"resume", "rename", "report", "rescore"} <= set(done.stdout.split())


@pytest.mark.slow
def test_the_dashboard_opens_in_the_browser(ended: Path, folder: Path) -> None:
    shutil.copytree(ended, folder, dirs_exist_ok=True)
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {folder}/opened\n')
    browser.chmod(0o755)
    server = subprocess.Popen(
        [*MERGETUNE, "dashboard", "--port", "0", "--open"],
        env=os.environ | {"BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "opened").exists() or not (folder / "opened").read_text():
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate()
    assert f"dashboard: {(folder / 'opened').read_text().strip()} " in said
