"""The tutorial is run on the demo's small checkpoints: every console block that is not marked."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import caller, enter
from demo_study import DEMO, PROMPTS, short_spec

from studies.spec.study import parse_spec

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "first-study.md").read_text()
MARK = "<!-- not run by the tests -->\n"
BLOCK = re.compile(rf"^({re.escape(MARK)})?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(language, body) for mark, language, body in BLOCK.findall(PAGE) if not mark]
NUMBER = re.compile(r"[+-]?\d[\d.,]*")


def shape(line: str) -> str:
    """Take from a line of output what differs from study to study.

    That is its figures and hashes, who is the better parent or the winner, and the verdict behind a semicolon. Of a row
    of a wide table the first cell stays: how the others fold depends on their figures.
    """
    if line.strip().startswith(("│", "┃")):
        cells = re.split("[│┃]", line.strip())[1:-1]
        line = " ".join(cells if len(cells) == 2 else cells[:1])
    for differs in (r"\b[0-9a-f]{10,64}\b", r"(?<=parent )[AB]\b", r"(?<=wrote ).*"):
        line = re.sub(differs, "#", line.split(";")[0])
    return " ".join(NUMBER.sub("#", line).strip(" ┏┓┗┛━┳┻┡┩╇┌┐└┘─┬┴├┤┼").split())


def unfolded(lines: list[str]) -> list[str]:
    """Put together what a table of two columns folds on a page. A pipe gets such a row whole."""
    whole: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().split("│")[1:-1]]
        if len(cells) == 2 and not cells[0]:
            whole[-1] = f"{whole[-1].rstrip(' │')} {cells[1]} │"
        else:
            whole.append(line)
    return whole


def small(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tutorial's spec with the demo's scorers and a suite of eight images of three steps."""
    demo = short_spec()
    scorers = {"scorers": demo["scorers"], "objective": demo["objective"], "render": {"degenerate_limit": 8}}
    suite = spec["suite"] | {"prompts": PROMPTS, "seeds": [1], "sizes": [64], "steps": 3, "cfg": 3}
    return spec | scorers | {"suite": suite, "budget": {"trials": 13}}


def test_the_spec_of_the_tutorial_is_valid(tmp_path: Path) -> None:
    ((_, text),) = [block for block in BLOCKS if block[0] == "yaml"]
    spec = parse_spec(text, base_dir=tmp_path)
    assert len(spec.suite.items()) == 16


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_and_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")
    call = caller(monkeypatch, capsys)
    shutil.copy(DEMO / "animals.safetensors", "realistic.safetensors")
    shutil.copy(DEMO / "foods.safetensors", "illustration.safetensors")
    printed: set[str] = set()
    shown: list[str] = []
    for language, body in BLOCKS:
        if language == "yaml":
            Path("first.yaml").write_text(yaml.safe_dump(small(yaml.safe_load(body))))
        elif language == "console":
            for line in body.splitlines():
                words = shlex.split(line)
                assert words[0] == "mergetune"
                outcome = call(*words[1:], code=0)
                printed |= {shape(said) for said in (outcome.out + outcome.err).splitlines()}
        else:
            shown += [line for line in unfolded(body.splitlines()) if shape(line)]
    assert len(shown) > 40
    for line in shown:
        assert shape(line) in printed, line
    assert list((tmp_path / "mergetune-artifacts").glob("first~*-final.png"))  # which it tells to look at
