"""`mergetune bracket` as a user types it: merges of the demo's parents compete, down to the spec of a search."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Call, caller, enter, run_in
from demo_study import DEMO, short_spec
from PIL import Image
from safetensors.torch import load_file, save_file
from slow_cases import first_fast

from studies.spec.study import load_spec

RATIOS = {"a": 0.1, "b": 0.4, "c": 0.5, "d": 0.6, "e": 0.9}
SPEC: Mapping[str, Any] = {
    "suite": {"prompts": ["an emoji of a lion", "an emoji of a pizza"], "seeds": [1], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None},
    "render": {"degenerate_limit": 2},
    "final": {"top": 0},
}
NETWORK_SPEC = {key: short_spec()[key] for key in ("scorers", "objective", "render")}


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five merges of the demo's parents, made by the program; read only."""
    folder = tmp_path_factory.mktemp("merges")
    parents = [str(DEMO / "animals.safetensors"), str(DEMO / "foods.safetensors")]
    recipe = folder / "recipe.yaml"
    for name, ratio in RATIOS.items():
        recipe.write_text(yaml.safe_dump({"parents": parents, "ratio": ratio}))
        run_in(folder, "merge", recipe, "-o", f"{name}.safetensors")
    recipe.unlink()
    return folder


@pytest.fixture(scope="module")
def played(merges: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bracket of the merges that is over, and what was said of it; read only."""
    folder = tmp_path_factory.mktemp("played")
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(dict(SPEC)))
    said = run_in(folder, "bracket", merges, "--suite", spec)
    (folder / "said.txt").write_text(said)
    return folder


@pytest.fixture
def files(merges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the merges in `models` and a spec."""
    (tmp_path / "models").mkdir()
    for file in merges.iterdir():
        (tmp_path / "models" / file.name).symlink_to(file)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(dict(SPEC)))
    several = {"scorers": {"sharpness": None, "contrast": None}, "objectives": ["sharpness", "contrast"]}
    (tmp_path / "several.yaml").write_text(yaml.safe_dump({**SPEC, **several}))
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def over(files: Path, played: Path) -> Path:
    """The current folder, with a bracket that is over as well; its checkpoints lay elsewhere."""
    shutil.copytree(played / "bracket", files / "bracket")
    return files


@pytest.fixture
def bracket(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys, "bracket")


def results(folder: Path = Path("bracket")) -> list[Any]:
    found: list[Any] = json.loads((folder / "bracket.json").read_text())["results"]
    return found


def test_five_merges_come_down_to_a_winner_and_the_spec_of_a_search(
    played: Path, merges: Path, over: Path, call: Call
) -> None:
    said = (played / "said.txt").read_text()
    assert [len([each for each in results() if each["match"]["round"] == number]) for number in (1, 2, 3)] == [1, 2, 1]
    winner = said.split("1. ")[1].split()[0]
    with Image.open("bracket/bracket.png") as picture:
        picture.load()
        assert picture.width > 1000
    page = Path("bracket/bracket.html").read_text()
    assert f"<h1>{winner} wins</h1>" in page
    assert page.count("<img") == 4 * 2 * 2  # matches, sides, images of a suite of two
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    spec = load_spec(over / "bracket" / "winners.yaml")
    assert spec.parents[0] == merges / f"{winner}.safetensors"
    assert len(spec.parents) == 4
    assert [prompt.prompt for prompt in spec.suite.prompts] == SPEC["suite"]["prompts"]
    assert "Start it with" in call("study", "check", "bracket/winners.yaml", code=0).out


def test_a_bracket_that_is_over_is_not_rendered_again(bracket: Call, over: Path) -> None:
    pictures = {path: path.stat().st_mtime_ns for path in Path("bracket/renders").rglob("*.png")}
    assert len(pictures) == (2 + 4 + 2) * 2
    said = bracket("models", "--suite", "spec.yaml", "--winners", "2", "-o", "two.yaml", code=0).out
    assert "4 of 4 matches are decided" in said
    assert {path: path.stat().st_mtime_ns for path in Path("bracket/renders").rglob("*.png")} == pictures
    assert len(load_spec(over / "two.yaml").parents) == 2
    assert "two.yaml exists" in bracket("models", "--suite", "spec.yaml", "-o", "two.yaml", code=2).err


@pytest.mark.slow
def test_a_spec_of_the_winners_that_was_edited_is_left_unless_forced(bracket: Call, over: Path) -> None:
    target, arguments = over / "bracket" / "winners.yaml", ("models", "--suite", "spec.yaml")
    bracket(*arguments, "--winners", "2", code=0)
    assert len(load_spec(target).parents) == 2
    target.write_text(target.read_text() + "# mine\n")
    said = bracket(*arguments, code=0)
    assert "was edited and is left as it is" in " ".join((said.out + said.err).split())
    assert target.read_text().endswith("# mine\n")
    bracket(*arguments, "--force", code=0)
    assert "# mine" not in target.read_text()
    assert len(load_spec(target).parents) == 4


@pytest.mark.slow
def test_pictures_that_are_lost_are_rendered_again_the_same(bracket: Call, over: Path) -> None:
    lost = next(Path("bracket/renders").rglob("0000.png"))
    before = lost.read_bytes()
    lost.unlink()
    bracket("models", "--suite", "spec.yaml", code=0)
    assert lost.read_bytes() == before


@pytest.mark.slow
def test_a_changed_suite_is_refused_and_anew_keeps_the_pictures_that_fit(bracket: Call, over: Path) -> None:
    pictures = {path: path.stat().st_mtime_ns for path in Path("bracket/renders").rglob("*.png")}
    changed = {**SPEC, "scorers": {"contrast": None}}
    (over / "spec.yaml").write_text(yaml.safe_dump(changed))
    assert "its judge is another" in bracket("models", "--suite", "spec.yaml", code=2).err
    bracket("models", "--suite", "spec.yaml", "--anew", code=0)
    now = {path: path.stat().st_mtime_ns for path in Path("bracket/renders").rglob("*.png")}
    assert pictures.items() & now.items()
    (over / "spec.yaml").write_text(yaml.safe_dump({**changed, "rounds": [{}, {"steps": 2}]}))
    assert "round 2 renders otherwise" in bracket("models", "--suite", "spec.yaml", code=2).err


def test_a_changed_checkpoint_is_refused_by_name(bracket: Call, over: Path) -> None:
    other = over / "models" / "c.safetensors"
    tensors = load_file(other)
    other.unlink()
    save_file({key: tensor * 0.99 if tensor.ndim == 4 else tensor for key, tensor in tensors.items()}, other)
    assert "c is not the file that it was" in bracket("models", "--suite", "spec.yaml", code=2).err
    assert len(results()) == 4


@pytest.mark.parametrize(
    ("factor", "said"),
    first_fast(1, [(float("nan"), "it holds NaN or infinity"), (0.0, "2 of 2 images are broken: item 0 (flat")]),
)
def test_one_that_cannot_be_rendered_loses(bracket: Call, files: Path, factor: float, said: str) -> None:
    broken = files / "models" / "a.safetensors"
    tensors = load_file(broken)
    broken.unlink()
    key = "first_stage_model.decoder.conv_out.weight"
    save_file(tensors | {key: tensors[key] * factor}, broken)
    (files / "spec.yaml").write_text(yaml.safe_dump({**SPEC, "render": {"degenerate_limit": 1}}))
    pair = ("models/a.safetensors", "models/c.safetensors")
    for _ in range(2):  # played, then read back
        ended = bracket(*pair, "--suite", "spec.yaml", "--winners", "2", code=0)
        assert "1. c\n2. a" in ended.out
    assert said in results()[0]["judgement"]["reason"]


@pytest.mark.slow
def test_by_eye_the_answers_of_the_terminal_decide_and_are_kept(
    bracket: Call, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["models", "--suite", "spec.yaml", "--by", "eye"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("equal\nsideways\ne\n"))
    stopped = bracket(*arguments, code=2)
    assert "got 'sideways'" in stopped.out
    assert "nobody answers" in stopped.err
    assert [each["winner"] for each in results()] == [4, 1]  # of even ones the lower number
    assert len(list(Path("bracket/sheets").glob("*.png"))) == 3
    monkeypatch.setattr(sys, "stdin", io.StringIO("L\nr\n"))
    said = bracket(*arguments, code=0).out
    assert "going on: 2 of 4 matches" in said
    assert said.count("better by eye") == 2


@pytest.mark.slow
def test_by_vote_the_answers_on_the_page_decide(bracket: Call, files: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def post(path: str, **body: str) -> dict[str, Any]:
        url, kind = f"http://127.0.0.1:{port}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(f"{url}/") as page:
            (identity,) = re.findall('data-identity="(.*?)"', page.read().decode())
        content = json.dumps({"identity": identity, **body}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}{path}", content, kind)) as answer:
            read: dict[str, Any] = json.loads(answer.read())
        return read

    over = threading.Event()

    def vote() -> None:
        """Vote on whatever is asked, for the left one."""
        while not over.wait(0.02):
            try:
                question = post("/next", person="ann")
                if "token" in question:
                    post("/answer", token=question["token"], answer="left")
            except (OSError, http.client.HTTPException):  # not served yet, or not any more
                continue

    voter = threading.Thread(target=vote)
    voter.start()
    try:
        said = bracket("models", "--suite", "spec.yaml", "--by", "vote", "--port", str(port), code=0).out
    finally:
        over.set()
        voter.join()
    assert f"vote: http://127.0.0.1:{port}/" in said
    assert len(results()) == 4
    for result in results():
        upper, lower = result["judgement"]["scores"]["votes"]
        assert upper + lower == 2
        match = result["match"]
        by_number = min(match["upper"], match["lower"])
        assert result["winner"] == (by_number if upper == lower else match["upper" if upper > lower else "lower"])
    votes = json.loads(Path("bracket/votes.json").read_text())["votes"]
    assert [vote["verdict"] for vote in votes] == ["left"] * 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no checkpoint at nowhere"),
        (["models", "--suite", "nowhere.yaml"], "no spec at nowhere.yaml: give the path of a YAML file"),
        (["models/a.safetensors", "--suite", "spec.yaml"], "two checkpoints or more, got 1 checkpoint"),
        (["models", "models/a.safetensors", "--suite", "spec.yaml"], "named twice"),
        (["models", "--suite", "spec.yaml", "--winners", "6"], "--winners: a search takes 2 to 5"),
        (["models", "--suite", "spec.yaml", "--winners", "1"], "--winners: a search takes 2 to 5"),
        (["models", "--suite", "spec.yaml", "-o", "winners.txt"], "ends in .yaml"),
        (["models", "--suite", "spec.yaml", "-o", "/proc/winners.yaml"], "cannot write into /proc"),
        (["models", "--suite", "spec.yaml", "--folder", "/proc/bracket"], "another path with --folder"),
        (["models", "--suite", "several.yaml"], "the spec has several `objectives`"),
        (["models", "--suite", "spec.yaml", "--folder", "models"], "has files and no bracket"),
        (["models", "--suite", "spec.yaml", "--folder", "spec.yaml"], "is not a folder"),
        (["models", "--suite", "spec.yaml", "--by", "taste"], "taste"),
        (["models", "--suite", "spec.yaml", "--by", "eye", "--open"], "add --by vote"),
        (["models", "--suite", "spec.yaml", "--by", "vote", "--host", "0.0.0.0"], "--password-file"),
        (["models", "--suite", "models/a.safetensors"], "a.safetensors"),
    ],
)
def test_wrong_input_gives_one_line_before_anything_is_rendered(bracket: Call, arguments: list[str], said: str) -> None:
    ended = bracket(*arguments, code=2)
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not Path("bracket").exists()


@pytest.mark.slow
def test_scorers_of_the_demo_judge_and_rounds_have_their_own_settings(bracket: Call, files: Path) -> None:
    suite = {**SPEC["suite"], "prompts": short_spec()["suite"]["prompts"], "steps": 2}
    rounds = [{}, {"cfg": 5, "prompts": suite["prompts"][:8], "seeds": [9]}]
    spec = {**NETWORK_SPEC, "suite": suite, "rounds": rounds, "final": {"top": 0}}
    (files / "spec.yaml").write_text(yaml.safe_dump(spec))
    said = bracket("models", "--suite", "spec.yaml", "--folder", "out", code=0).out
    assert "round 2: final four: 2 matches of 4 checkpoints; 8 images of 8 prompts, 2 steps, cfg 5" in said
    for each in results(Path("out")):
        judgement = each["judgement"]
        assert judgement["low"] < judgement["lead"] < judgement["high"]
        assert set(judgement["scores"]) == {"clip_score", "likeness"}


def _files_in(folder: Path) -> int:
    """Count files while another process writes and removes some: `os.walk` passes over what vanishes."""
    return sum(len(files) for _, _, files in os.walk(folder))


def _killed(folder: Path, arguments: list[str], when: int) -> bool:
    """Run the program, and kill it when so many files are in its folder; whether it was killed before it was done."""
    child = subprocess.Popen(
        [sys.executable, "-m", "optimizer.cli", "bracket", *arguments], cwd=folder, stdout=subprocess.DEVNULL
    )
    while child.poll() is None and _files_in(folder / "bracket") < when:
        time.sleep(0.02)
    child.kill()
    return child.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_one_that_was_not(bracket: Call, files: Path) -> None:
    arguments = ["models", "--suite", "spec.yaml"]
    bracket(*arguments, "--folder", "whole", code=0)
    killed = [_killed(files, arguments, when) for when in (1, 3, 8, 14, 20)]
    assert sum(killed) >= 4
    bracket(*arguments, code=0)
    assert results() == results(Path("whole"))
    for made in Path("whole/renders").rglob("*.png"):
        assert (Path("bracket/renders") / made.relative_to("whole/renders")).read_bytes() == made.read_bytes()
    assert Path("bracket/bracket.html").read_text() == Path("whole/bracket.html").read_text()
    assert not list(Path("bracket").rglob("*.part"))
    shutil.rmtree("whole")
