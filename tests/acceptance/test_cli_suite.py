"""`mergetune suite import` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Call, caller, enter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studies.spec.published.settings import PublishedError
from studies.system.documents import parse_yaml

TEXT = (
    "a castle, {seed}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 512x512"
)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    return caller(monkeypatch, capsys, "suite", "import")


def picture(path: Path, **texts: str) -> None:
    path.parent.mkdir(exist_ok=True)
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "gallery"
    picture(folder / "one.png", parameters=TEXT.format(seed=1))
    picture(folder / "again.png", parameters=TEXT.format(seed=1))
    (folder / "two.txt").write_text(TEXT.format(seed=2))
    picture(folder / "bare.png")
    (folder / "broken.webp").write_bytes(b"RIFF0000WEBPxx")
    swarm = {"prompt": "b", "seed": 3, "steps": 4, "cfgscale": 5, "width": 512, "height": 512}
    picture(folder / "swarm.png", parameters=json.dumps({"sui_image_params": swarm}))
    (folder / "notes.md").write_text("not looked at")
    return folder


def test_a_folder_becomes_a_suite_and_what_is_left_out_is_said(gallery: Path, call: Call, tmp_path: Path) -> None:
    done = call("gallery", "-o", "suite.yaml", code=0)
    output = done.out + done.err
    assert "2 of 6 files" in output
    for line in (
        "bare.png: no generation settings",
        "broken.webp: it cannot be read",
        "the same render as again.png",
        "swarm.png: it was made with `syntax: comfyui`",
        "RNG: GPU",
    ):
        assert line in output
    suite = parse_yaml((tmp_path / "suite.yaml").read_text(), "suite", PublishedError)["suite"]
    assert [(prompt["prompt"], prompt["seeds"]) for prompt in suite["prompts"]] == [
        ("a castle, 1", [1]),
        ("a castle, 2", [2]),
    ]
    assert "--force" in call("gallery", "-o", "suite.yaml", code=2).err
    call("gallery", "-o", "suite.yaml", "--force", code=0)


def test_a_dash_writes_the_suite_to_the_standard_output_and_all_else_beside_it(gallery: Path, call: Call) -> None:
    call("gallery", "-o", "suite.yaml", code=0)
    done = call("gallery", "-o", "-", code=0)
    assert done.out == (gallery.parent / "suite.yaml").read_text()
    assert "2 of 6 files" in done.err
    assert "RNG: GPU" in done.err
    assert not (gallery.parent / "-").exists()
    (gallery / "long.txt").write_text(TEXT.replace("a castle", "a [red] castle " * 60).format(seed=9))
    suite = parse_yaml(call("gallery", "-o", "-", code=0).out, "suite", PublishedError)["suite"]
    assert suite["prompts"][1]["prompt"] == "a [red] castle " * 60 + ", 9"


def test_folders_below_are_named_or_read(gallery: Path, call: Call) -> None:
    picture(gallery / "sub" / "deep.png", parameters=TEXT.format(seed=5))
    picture(gallery / "sub" / "bare.png")
    (gallery / "empty").mkdir()
    done = call("gallery", "-o", "-", code=0)
    assert "left out: the folder sub with 2 files: add --recursive" in done.err
    assert "the folder empty" not in done.err
    done = call("gallery", "-o", "-", "--recursive", code=0)
    assert "3 of 8 files" in done.err
    assert "left out: sub/bare.png: no generation settings" in done.err
    assert "# sub/deep.png" in done.out
    refused = call(gallery.parent, "-o", "-", code=2)
    assert "in folders below it (gallery)" in " ".join(refused.err.split())
    assert refused.out == ""


@pytest.mark.parametrize("folder", ["nowhere", "empty", "bare"])
def test_a_folder_without_settings_is_one_line_and_writes_nothing(tmp_path: Path, call: Call, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "bare" / "bare.png")
    output = call(folder, "-o", "suite.yaml", code=2).err
    assert output.count("error:") == 1
    assert "Traceback" not in output
    assert not (tmp_path / "suite.yaml").exists()


def test_pictures_that_a_study_would_refuse_are_left_out_with_the_reason(gallery: Path, call: Call) -> None:
    for number, prompt in enumerate(("a AND b", "[a, b", "((a, b)", "a <foo:bar> c"), 20):
        (gallery / f"{number}.txt").write_text(TEXT.replace("a castle", prompt).format(seed=number))
    done = call("gallery", "-o", "-", code=0)
    said = " ".join(done.err.split())
    assert "left out: 20.txt: the prompt 'a AND b, 20' cannot be read" in said
    assert "left out: 21.txt: the prompt '[a, b, 21' cannot be read" in said
    assert "4 of 10 files" in said
    prompts = parse_yaml(done.out, "suite", PublishedError)["suite"]["prompts"]
    assert [prompt["prompt"] for prompt in prompts][:2] == ["((a, b), 22)", "a  c, 23"]
