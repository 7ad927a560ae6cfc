"""The first ten minutes: `mergetune init` drafts a spec, `study check --time` says how long the study takes here."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import VARIABLES, Call, caller, enter
from demo_study import DEMO, SMALL, short_spec, write_spec
from PIL import Image
from small_loras import write_lora

from optimizer.merging.files.checkpoint import Checkpoint
from studies.spec.study import load_spec

HOURS = ("--hours", "2", "--no-measure")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, file in (("animals", "animals"), ("foods", "foods")):
        (tmp_path / f"{name}.safetensors").symlink_to(DEMO / f"{file}.safetensors")
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


PARENTS = ("animals.safetensors", "foods.safetensors")


def test_the_spec_is_one_that_study_check_accepts(folder: Path, call: Call) -> None:
    told = call("init", *PARENTS, *HOURS, code=0).out
    spec = load_spec(folder / "first.yaml")
    assert [path.name for path in spec.parents] == list(PARENTS)
    assert spec.budget.minutes == 120
    assert "IN 34.8 %" in told
    text = (folder / "first.yaml").read_text()
    assert '- "animals.safetensors"  # A' in text  # so that the folder may move
    assert "predicting epsilon" in text
    assert "The spec is fine" in call("study", "check", "first.yaml", code=0).out


def test_what_is_given_is_in_the_spec(folder: Path, call: Call) -> None:
    (folder / "prompts.txt").write_text('a "quoted" fox: red\n\n# not this\nan owl, 100 %\na "quoted" fox: red\n')
    refs = folder / "my pictures"
    refs.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64)).save(refs / f"{number}.png")
    write_lora(folder / "1 style.safetensors", Checkpoint.open(DEMO / "animals.safetensors").tensors)
    (folder / "deeper").mkdir()
    call(
        *("init", *PARENTS, *HOURS, "--prompts", "prompts.txt", "--refs", "my pictures"),
        *("--loras", "1 style.safetensors", "-o", "deeper/my study.yaml"),
        code=0,
    )
    spec = load_spec(folder / "deeper" / "my study.yaml")
    assert spec.study == "my study"
    assert [prompt.prompt for prompt in spec.suite.prompts] == ['a "quoted" fox: red', "an owl, 100 %"]
    assert len(spec.suite.items()) >= 8
    assert [lora.path.name for lora in spec.loras.values()] == ["1 style.safetensors"]
    text = (folder / "deeper" / "my study.yaml").read_text()
    assert f"kid, the distance to {refs}: its network is not on this machine" in text
    assert "The spec is fine" in call("study", "check", "deeper/my study.yaml", code=0).out


@pytest.mark.slow
def test_trials_are_counted_from_the_time_of_an_image(folder: Path, call: Call) -> None:
    call("init", *PARENTS, "--hours", "0.5", code=0)
    few = load_spec(folder / "first.yaml")
    call("init", *PARENTS, "--hours", "500", "--force", code=0)
    many = load_spec(folder / "first.yaml")
    assert few.budget.trials < many.budget.trials == 300
    assert few.space.granularity == "sections"
    assert many.space.granularity == "blocks"
    assert re.search(
        r"# Measured here with one image of 4 steps: about [\d.]+ \w+ an image, .* a trial",
        (folder / "first.yaml").read_text(),
    )


def test_an_existing_file_is_kept_unless_it_is_to_be_replaced(folder: Path, call: Call) -> None:
    (folder / "first.yaml").write_text("mine")
    refused = call("init", *PARENTS, *HOURS, code=2)
    assert "first.yaml exists" in refused.err
    assert "--force" in refused.err
    assert (folder / "first.yaml").read_text() == "mine"
    call("init", *PARENTS, *HOURS, "--force", code=0)
    assert load_spec(folder / "first.yaml").study == "first"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["2 to 26 checkpoints", "got 0"]),
        (["animals.safetensors"], ["got 1", "mergetune init A B"]),
        (["animals.safetensors", "lost.safetensors"], ["no checkpoint at lost.safetensors"]),
        (["animals.safetensors", "./animals.safetensors"], ["named twice"]),
        (
            ["animals.safetensors", "copy.safetensors"],
            ["copy.safetensors (parent B)", "merging the two changes nothing"],
        ),
        ([*PARENTS, "--loras", "lost.safetensors"], ["no LoRA at lost.safetensors"]),
        ([*PARENTS, "--refs", "lost"], ["--refs: lost is not a folder"]),
        ([*PARENTS, "--prompts", "lost.txt"], ["--prompts: there is nothing at lost.txt", "one prompt a line"]),
        ([*PARENTS, "--prompts", "empty.txt"], ["has no prompt"]),
        ([*PARENTS, "--prompts", "animals.safetensors"], ["cannot be read", "UTF-8"]),
        ([*PARENTS, "--prompts", "odd.txt", "--no-measure"], ["odd"]),
        ([*PARENTS, "--hours", "0"], ["--hours", "0.01"]),
        ([*PARENTS, "--hours", "nan"], ["--hours", "10000"]),
        ([*PARENTS, "-o", "spec.txt"], ["spec.txt", ".yaml"]),
        ([*PARENTS, "-o", "nowhere/spec.yaml"], ["nowhere/spec.yaml", "folder"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
    arguments: list[str], words: list[str], folder: Path, call: Call
) -> None:
    (folder / "empty.txt").write_text("\n# nothing\n")
    if "copy.safetensors" in arguments:
        shutil.copyfile(DEMO / "animals.safetensors", folder / "copy.safetensors")
    (folder / "odd.txt").write_text("an odd (fox:1.2:3:\n<lora:odd:1>\n")
    refused = call("init", *arguments, code=2)
    assert refused.err.count("\n") == 1
    for word in words:
        assert word in refused.err
    assert not list(folder.rglob("*.yaml"))


def in_a_terminal(folder: Path, answers: str, *arguments: str) -> str:
    """Run `mergetune ARGUMENTS` in a pseudo-terminal, type the answers, and return what it shows."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.Popen(
        [sys.executable, "-m", "optimizer.cli", *arguments],
        cwd=folder,
        env=environment | {"TERM": "xterm", "COLUMNS": "200"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, answers.encode())
    shown, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(30) == 0, shown.decode()
    return shown.decode()


@pytest.mark.slow
def test_a_terminal_is_asked_and_asked_again(folder: Path) -> None:
    answers = ["animals.safetensors", "lost.safetensors", "foods.safetensors", "", "", "", "many", "3", "asked.yaml"]
    shown = in_a_terminal(folder, "\n".join(answers) + "\n", "init", "--no-measure")
    assert "there is nothing at lost.safetensors" in shown
    assert "expected a number, such as 8, got 'many'" in shown
    spec = load_spec(folder / "asked.yaml")
    assert spec.budget.minutes == 180


def test_study_check_says_how_long_a_study_takes_here(folder: Path, call: Call) -> None:
    write_spec(folder / "small.yaml", **SMALL)
    told = call("study", "check", "small.yaml", "--time", "--cache", "cache", code=0).out
    assert "measured here, on 2 images" in told
    assert re.search(r"the study +│ about .*(second|minute)s? for 13 trials", told)
    assert re.search(r"memory +│ [\d.]+ (MB|GB) of the machine's memory", told)
    assert "17 MB for the exported file" in told
    assert "The spec is fine" in told


def test_a_scorer_that_needs_more_images_than_a_batch_is_named(folder: Path, call: Call) -> None:
    scorers = {"likeness": short_spec()["scorers"]["likeness"], "sharpness": None}
    suite = SMALL["suite"] | {"seeds": list(range(8))}
    changes = {"scorers": scorers, "suite": suite, "render": {"batch_size": 2, "degenerate_limit": 8}}
    write_spec(folder / "small.yaml", **{**SMALL, **changes})
    told = call("study", "check", "small.yaml", "--time", "--cache", "cache", code=0).out
    assert "likeness needs more images than a batch has" in told


@pytest.mark.slow
def test_a_line_says_that_libraries_are_loaded(folder: Path) -> None:
    assert "loading torch" in in_a_terminal(folder, "", "inspect", "animals.safetensors", "--no-check")
