"""Prompts of a study: what `study check` says of them, and embeddings that change or move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Call, caller
from demo_study import SMALL, begin, short_spec
from safetensors.torch import save_file

from optimizer.errors import MissingFileError, OutsideFoldersError, PromptError
from optimizer.runtime.model_files import ModelFolders
from optimizer.runtime.plan import make_plan
from studies.errors import StudyChangedError
from studies.spec.fingerprints import THE_EMBEDDINGS, fingerprints, refuse_changed_files
from studies.spec.study import StudySpec, parse_spec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

WIDTH = 32  # of the demo models' text encoder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys, "study")


def write_spec(folder: Path, **suite: Any) -> Path:
    data = short_spec(**{**SMALL, "suite": {"prompts": ["a lion"], "sizes": [64], "steps": 4, **suite}})
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def write_embedding(path: Path, seed: int = 0, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    save_file({"emb_params": vectors}, path)
    return path


def test_the_check_prints_how_each_prompt_is_read(run: Call, tmp_path: Path) -> None:
    write_embedding(tmp_path / "embeddings" / "mystyle.safetensors")
    prompts = ["a (red:1.4) lion, mystyle", "a [lion:panda:0.5]", "cat " * 80]
    spec = write_spec(tmp_path, prompts=prompts, negative="(ugly)", embeddings="embeddings")
    said = run("check", spec, "--prompts", code=0).out
    for part in (
        "read as a1111",
        'weights: "red" 1.4',
        "embeddings: mystyle (2 vectors)",
        'steps 1 to 3: "a lion"',
        'step 4: "a panda"',
        "2 chunks of 75 tokens, filled with 75, 5",
        'negative prompt "(ugly)"',
        'weights: "ugly" 1.1',
    ):
        assert part in said
    assert "weights:" not in run("check", spec, code=0).out


@pytest.mark.parametrize(
    ("suite", "problem"),
    [
        ({"prompts": ["a (lion"]}, "cannot be read at character 3"),
        ({"prompts": ["a <lora:style:0.8> lion"]}, "give `lora_folder: FOLDER` under `suite`"),
        ({"prompts": ["a lion"], "negative": "((dark)"}, "the prompt '((dark)'"),
        ({"syntax": "comfyui", "prompts": ["embedding:x"]}, "give `embeddings: FOLDER`"),
        ({"embeddings": "nowhere"}, "is no folder"),
    ],
)
def test_what_is_wrong_in_a_prompt_is_one_line_before_anything_is_loaded(
    suite: dict[str, Any], problem: str, run: Call, tmp_path: Path
) -> None:
    for command in ("check", "start"):
        failed = run(command, write_spec(tmp_path, **suite), code=2)
        assert problem in " ".join(failed.err.split())
        assert "Traceback" not in failed.err


def test_a_prompt_of_the_final_is_read_before_the_study_begins(tmp_path: Path) -> None:
    spec = parse_spec(
        yaml.safe_dump(short_spec(**{**SMALL, "final": {"top": 1, "prompts": ["a (fox"]}})), base_dir=tmp_path
    )
    with pytest.raises(PromptError, match="a \\(fox"):
        make_plan(spec)


def test_notes_on_a_picture_are_told_once_when_the_spec_is_read(run: Call, tmp_path: Path) -> None:
    text = (
        "a lion, {0}\nSteps: 4, Sampler: Euler a, CFG scale: 3, Seed: {0}, Size: 64x64, RNG: CPU, ENSD: 31337, "
        "Hires prompt: other"
    )
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text(text.format(number))
    spec = write_spec(tmp_path, prompts=[{"image": "1.txt"}, {"image": "1.txt", "seeds": [9]}, {"image": "2.txt"}])
    for command in (("check", spec), ("start", spec, "--detach")):
        said = " ".join(run(*command, code=0).out.split())
        for number in (1, 2):
            assert said.count(f"note: {number}.txt: not repeated: the second pass's own prompt") == 1
        assert said.count("note: suite: `ensd: 31337` is that of its pictures") == 1


def test_what_another_program_gives_a_meaning_is_a_note(tmp_path: Path) -> None:
    for suite, note in (
        ({"syntax": "comfyui", "prompts": ["a lion BREAK a panda"]}, "'BREAK', which ComfyUI reads as words"),
        ({"prompts": ["embedding:x lion"]}, "A1111 knows an embedding by its bare name"),
    ):
        plan = make_plan(parse_spec(write_spec(tmp_path, **suite).read_text(), base_dir=tmp_path))
        assert any(note in each for each in plan.notes)
        assert not any("ignores the rest" in each for each in plan.notes)


# ------------------------------------------------------------------------------------------ embeddings


@pytest.fixture(params=["a1111", "comfyui"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> StudySpec:
    write_embedding(tmp_path / "embeddings" / "sub" / "mystyle.safetensors")
    write_embedding(tmp_path / "embeddings" / "unused.safetensors", seed=1)
    named = "mystyle" if request.param == "a1111" else "embedding:mystyle"
    suite = {"syntax": request.param, "prompts": [f"a lion, {named}"], "embeddings": "embeddings"}
    return parse_spec(write_spec(tmp_path, **suite).read_text(), base_dir=tmp_path)


def test_an_embedding_that_changes_is_refused_and_one_that_is_not_used_may(spec: StudySpec, tmp_path: Path) -> None:
    known = fingerprints(spec)
    write_embedding(tmp_path / "embeddings" / "unused.safetensors", seed=2)
    refuse_changed_files(known, spec)
    write_embedding(tmp_path / "embeddings" / "sub" / "mystyle.safetensors", seed=2)
    with pytest.raises(StudyChangedError, match="the embeddings that the prompts name"):
        refuse_changed_files(known, spec)


def test_an_embedding_that_comes_to_be_named_is_a_change(tmp_path: Path) -> None:
    write_embedding(tmp_path / "embeddings" / "other.safetensors")
    text = write_spec(tmp_path, prompts=["a lion, mystyle"], embeddings="embeddings").read_text()
    spec = parse_spec(text, base_dir=tmp_path)
    known = fingerprints(spec)
    write_embedding(tmp_path / "embeddings" / "mystyle.safetensors")
    with pytest.raises(StudyChangedError, match="embeddings"):
        refuse_changed_files(known, spec)


def test_a_folder_of_embeddings_that_has_moved_is_found_by_its_content(tmp_path: Path, spec: StudySpec) -> None:
    begun = begin(tmp_path, {**SMALL, "suite": spec.suite.model_dump(mode="json")})
    study = begun.study
    assert THE_EMBEDDINGS in study.fingerprints
    (tmp_path / "embeddings").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingFileError, match="the folder of embeddings"):
        ModelFolders().locate(study)
    found = ModelFolders(folders=(tmp_path / "elsewhere",), exclusive=False).locate(study).spec
    assert found.suite.embeddings == tmp_path / "elsewhere"
    refuse_changed_files(study.fingerprints, found)
    outside = replace(study, spec=found)
    (tmp_path / "models").mkdir()
    with pytest.raises(OutsideFoldersError):
        ModelFolders(folders=(tmp_path / "models",), also=tuple(path.parent for path in spec.parents)).locate(outside)


def test_an_embedding_is_rendered_in_a_trial(tmp_path: Path, spec: StudySpec) -> None:
    begun = begin(tmp_path, {**SMALL, "suite": spec.suite.model_dump(mode="json"), "budget": {"trials": 1}})
    assert len(begun.run().finished) == 1


def test_one_for_another_width_is_refused_by_name(tmp_path: Path, spec: StudySpec) -> None:
    write_embedding(tmp_path / "embeddings" / "sub" / "mystyle.safetensors", width=768)
    with pytest.raises(
        PromptError, match=rf"'mystyle' .* expected vectors for clip_l of {WIDTH}, got one tensor of 768"
    ):
        make_plan(spec)
