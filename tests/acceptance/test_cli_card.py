"""`mergetune export --card` as a user types it, on a short study of real checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import yaml
from comfy_nodes import saved_by, steps_apart
from command_line import Call, caller, enter
from demo_study import DEMO, SMALL, begin
from PIL import Image
from safetensors.torch import load_file, save_file

from search_spaces.block_weights import parse_block_weights
from search_spaces.blocks import Architecture
from studies.files.artifacts import Artifacts, RenderFile
from studies.records.database import open_database
from studies.records.kept_renders import render_name
from studies.records.stored_renders import drop_files
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials

UNIFORM = 2  # number of the trial that merges uniformly, with 0.25
NAME = "füchse: 1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose first parent says its licence; all renders are kept."""
    folder = tmp_path_factory.mktemp("card")
    for name, said in (("animals", {"modelspec.license": "MIT", "modelspec.author": "A: B"}), ("foods", {})):
        save_file(load_file(DEMO / f"{name}.safetensors"), folder / f"{name}.safetensors", said)
    begin(
        folder,
        {
            **SMALL,
            "parents": ["animals.safetensors", "foods.safetensors"],
            "suite": {"prompts": ["a lion", "a fox"], "seeds": [1, 2, 3], "sizes": [64], "steps": 1},
            "render": {"degenerate_limit": 8, "keep": "all"},
        },
    ).run(stop_after=3)
    return folder


@pytest.fixture
def call(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    run = caller(monkeypatch, capsys, "export", "short")
    places = ("--storage", f"sqlite:///{made}/study.db", "--artifacts", str(made / "artifacts"))
    return lambda *arguments, code=None: run(*arguments, *places, code=code)


def test_a_card_lies_beside_the_file_with_pictures_and_a_workflow_of_the_same_merge(
    made: Path, tmp_path: Path, call: Call
) -> None:
    said = call("--trial", str(UNIFORM), "-o", f"{NAME}.safetensors", "--card", code=0)
    pictures = [f"{NAME}-{number}.png" for number in range(1, 5)]
    written = {f"{NAME}.safetensors", f"{NAME}.md", f"{NAME}-workflow.json", *pictures}
    assert {path.name for path in tmp_path.iterdir()} == written
    for name in written:
        assert f"wrote {name}" in said.out
    text = (tmp_path / f"{NAME}.md").read_text()
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["model_name"] == NAME
    assert [each["text"] for each in matter["widget"]] == ["a lion", "a fox", "a lion", "a lion"]
    assert "license" not in matter
    assert str(made) not in text
    shown = [unquote(link) for link in re.findall(r"^!\[.*\]\((.*)\)$", text, flags=re.MULTILINE)]
    assert shown == pictures
    for name in pictures:
        with Image.open(tmp_path / name) as picture:
            assert picture.info["parameters"] in text
    (line,) = (line for line in text.splitlines() if line.count(",") == 25)
    assert set(parse_block_weights(line, Architecture.SD15).values()) == {0.25, 0.0}
    saved = saved_by((tmp_path / f"{NAME}-workflow.json").read_text(), made)
    file = load_file(tmp_path / f"{NAME}.safetensors")
    for key in saved.keys() & file.keys():
        if file[key].is_floating_point():
            assert steps_apart(file[key].to(torch.float32), saved[key]) <= 1, key
    assert len(saved.keys() & file.keys()) > 500


def test_files_of_a_card_are_never_replaced_by_accident(tmp_path: Path, call: Call) -> None:
    for name in ("best.md", "best-workflow.json", "best-3.png"):
        (tmp_path / name).write_text("mine")
        refused = call("--trial", str(UNIFORM), "-o", "best.safetensors", "--card", code=2)
        assert f"{name} exists" in refused.err
        assert "--force" in refused.err
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.slow
def test_with_force_a_card_is_replaced(tmp_path: Path, call: Call) -> None:
    (tmp_path / "best.md").write_text("old")
    call("--trial", "0", "-o", "best.safetensors", "--card", "--force", code=0)
    text = (tmp_path / "best.md").read_text()
    assert "This file is parent A alone" in text
    assert "old" not in text.split("\n")


def test_a_card_is_for_a_file_and_not_for_a_recipe(tmp_path: Path, call: Call) -> None:
    refused = call("--trial", str(UNIFORM), "--recipe", "r.yaml", "--card", code=2)
    assert "--card describes an exported file" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_lost_pictures_are_told_and_left_out(made: Path, tmp_path: Path, call: Call) -> None:
    kept = sorted((made / "artifacts").rglob("*/1-*/*.png"))
    assert len(kept) == 6
    for path in kept[:-1]:
        path.unlink()
    (tmp_path / "best-2.png").write_text("of an earlier card")
    said = call("--trial", "1", "-o", "best.safetensors", "--card", "--force", code=0)
    text = (tmp_path / "best.md").read_text()
    assert text.count("](best-1.png)") == 1
    assert "5 renders of this trial cannot be shown" in text
    told = " ".join(said.out.split())
    assert "5 renders of this trial cannot be shown" in told
    assert "of an earlier card, and not of this merge: best-2.png" in told


@pytest.mark.slow
def test_renders_of_the_final_are_shown_where_the_search_kept_none(made: Path, tmp_path: Path, call: Call) -> None:
    records = open_study(open_database(f"sqlite:///{made}/study.db", create=False), "short")
    drop_files(records, load_trials(records)[0])
    call("--trial", "0", "-o", "without.safetensors", "--card", code=0)
    assert "no render of this trial was kept" in (tmp_path / "without.md").read_text()

    held_out = records.study.spec.held_out
    file = render_name(0, held_out.render_labels()[1])
    pixels = np.full((3, 64, 64), 7, np.uint8)
    final = Artifacts.beside(records.database.url, made / "artifacts").of_final(records.study.key)
    final.save_renders([RenderFile(file=file, pixels=pixels)])
    call("--trial", "0", "-o", "with.safetensors", "--card", code=0)
    text = (tmp_path / "with.md").read_text()
    assert f"Seed: {held_out.items()[1].seed}" in text
    assert "no render of this trial was kept" not in text
    with Image.open(tmp_path / "with-1.png") as picture:
        assert np.array(picture).max() == 7
