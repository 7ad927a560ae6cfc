"""`image:` in a spec: settings of the whole suite that its pictures have, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies.errors import SpecError
from studies.spec.published.files import read_published
from studies.spec.published.suites import prompt_settings, with_pictures
from studies.spec.study import ReadSpec, StudySpec, load_spec_and_notes
from studies.spec.suite import SizeConditioning

LINE = "Steps: 5, Sampler: Euler a, CFG scale: 6, Seed: {seed}, Size: 64x64, RNG: CPU"


def infotext(path: Path, more: str = "", seed: int = 1) -> str:
    path.write_text(f"a (red:1.2) lion\nNegative prompt: dark\n{LINE.format(seed=seed)}{more}")
    return path.name


def swarm(path: Path, seed: int = 1) -> str:
    settings = {"prompt": "a lion", "seed": seed, "steps": 4, "cfgscale": 5, "width": 64, "height": 64}
    # A text file has the text of one picture, as a program shows it.
    path.write_text(json.dumps({"sui_image_params": settings}))
    return path.name


def read(folder: Path, suite: str, more: str = "") -> ReadSpec:
    path = folder / "spec.yaml"
    path.write_text(
        f"study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {{sharpness: }}\nsuite: {suite}\n{more}"
    )
    return load_spec_and_notes(path)


def test_what_the_spec_leaves_out_is_that_of_the_pictures(tmp_path: Path) -> None:
    more = ", ENSD: 31337, Emphasis: No norm, SGM noise multiplier: True"
    one, two = infotext(tmp_path / "1.txt", more), infotext(tmp_path / "2.txt", more, seed=2)
    found = read(tmp_path, f"{{prompts: [{{image: {one}}}, {{image: {two}}}, a fox]}}")
    suite = found.spec.suite
    assert (suite.syntax, suite.program, suite.ensd) == ("a1111", "a1111", 31337)
    assert (suite.emphasis, suite.sgm_noise_multiplier) == ("no_norm", True)
    assert found.notes == (
        "suite: `ensd: 31337` is that of its pictures",
        "suite: `emphasis: no_norm` is that of its pictures",
        "suite: `sgm_noise_multiplier: true` is that of its pictures",
    )
    assert StudySpec.from_json(found.spec.to_json()) == found.spec


def test_pictures_of_comfyui_bring_its_syntax_and_noise(tmp_path: Path) -> None:
    found = read(tmp_path, f"{{prompts: [{{image: {swarm(tmp_path / 'swarm.txt')}}}]}}")
    assert (found.spec.suite.syntax, found.spec.suite.program, found.spec.suite.emphasis) == (
        "comfyui",
        "comfyui",
        None,
    )
    assert "suite: `syntax: comfyui` is that of its pictures" in found.notes
    assert "suite: `program: comfyui` is that of its pictures" in found.notes


def test_pictures_of_the_final_count_as_well(tmp_path: Path) -> None:
    name = infotext(tmp_path / "1.txt", ", ENSD: 7")
    found = read(tmp_path, "{prompts: [a fox]}", f"final: {{prompts: [{{image: {name}}}]}}")
    assert found.spec.suite.ensd == found.spec.held_out.ensd == 7


def test_pictures_that_differ_are_refused_until_the_spec_says_which(tmp_path: Path) -> None:
    one, two = infotext(tmp_path / "1.txt", ", ENSD: 31337"), infotext(tmp_path / "2.txt", seed=2)
    suite = f"{{prompts: [{{image: {one}}}, {{image: {two}}}]}}"
    with pytest.raises(SpecError, match=r"1\.txt was made with `ensd: 31337` and 2\.txt with `ensd: 0`") as refused:
        read(tmp_path, suite)
    assert "write the `ensd` that all prompts" in str(refused.value)
    assert "\n" not in str(refused.value)
    found = read(tmp_path, suite.replace("{prompts", "{ensd: 31337, prompts", 1))
    assert found.spec.suite.ensd == 31337
    assert found.notes == ("2.txt: it was made with `ensd: 0`, and the suite has `ensd: 31337`",)


def test_pictures_of_two_programs_are_refused_until_the_spec_says_whose_syntax(tmp_path: Path) -> None:
    one, two = infotext(tmp_path / "1.txt"), swarm(tmp_path / "2.txt", seed=2)
    suite = f"{{prompts: [{{image: {one}}}, {{image: {two}}}]}}"
    with pytest.raises(SpecError, match=r"differ in a setting .* `syntax: a1111` and 2\.txt with `syntax: comfyui`"):
        read(tmp_path, suite)
    found = read(tmp_path, suite.replace("{prompts", "{syntax: comfyui, program: comfyui, prompts", 1))
    assert found.spec.suite.syntax == "comfyui"
    assert found.notes == (
        "1.txt: it was made with `syntax: a1111`, and the suite has `syntax: comfyui`",
        "1.txt: it was made with `program: a1111`, and the suite has `program: comfyui`",
    )


def test_a_picture_has_no_say_in_what_plays_no_part_in_it(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text(f"a lion\n{LINE.format(seed=3).replace('Euler a', 'DPM++ 2M')}")
    one = infotext(tmp_path / "1.txt", ", ENSD: 31337, Emphasis: No norm")
    found = read(tmp_path, f"{{prompts: [{{image: plain.txt}}, {{image: {one}}}]}}")
    assert (found.spec.suite.ensd, found.spec.suite.emphasis) == (31337, "no_norm")


def test_notes_of_a_picture_are_told_once(tmp_path: Path) -> None:
    name = infotext(tmp_path / "1.txt", ", Hires prompt: y, Refiner: x")
    found = read(tmp_path, f"{{prompts: [{{image: {name}}}, {{image: {name}, seeds: [5]}}]}}")
    assert found.notes == ("1.txt: not repeated: the second pass's own prompt, the refiner",)


def test_sizes_that_are_told_to_sdxl_are_those_of_the_pictures(tmp_path: Path) -> None:
    ours = ", Version: mergetune, Original size: 2048x1024, Crop: 8x16"
    found = read(tmp_path, f"{{prompts: [{{image: {infotext(tmp_path / '1.txt', ours)}}}]}}")
    assert found.spec.suite.size_conditioning == SizeConditioning(original=(2048, 1024), crop=(8, 16))
    assert "suite: `size_conditioning: {original: [2048, 1024], crop: [8, 16]}` is that of its pictures" in found.notes


def test_other_keys_of_a_prompt_override_those_of_its_picture(tmp_path: Path) -> None:
    name = infotext(tmp_path / "1.txt")
    spec = {"suite": {"prompts": [{"image": name}, {"image": name, "steps": 9, "weight": 2}, "x"]}}
    resolved, notes = with_pictures(spec, tmp_path)
    whole = prompt_settings(read_published(tmp_path / name))
    assert resolved["suite"]["prompts"] == [whole, whole | {"steps": 9, "weight": 2}, "x"]
    assert notes == ()
    with pytest.raises(ValueError, match=r"image: none.png: there is no such file"):
        with_pictures({"suite": {"prompts": [{"image": "none.png"}]}}, tmp_path)
