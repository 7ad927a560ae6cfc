"""`mergetune inspect` and `mergetune diff` as a user types them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from command_line import Call, caller, enter
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_spaces.blocks import Architecture, blocks, places
from studies.recipe.recipe import Parent, Recipe

SHA_A, SHA_B = "a1" * 32, "b2" * 32
MECHA = """version 0.1.0
model "anime.safetensors" model_config="sd1-ldm" merge_space="weight"
model "photo.safetensors" model_config="sd1-ldm" merge_space="weight"
merge "weighted_sum" &0 &1 alpha=0.25"""


def edited(path: Path, edit: Callable[[dict[str, Tensor]], None], metadata: Mapping[str, str] | None = None) -> Path:
    """A small SD1.5 checkpoint after an edit of its tensors."""
    tensors = random_tensors("sd15", 1)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, read only."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "a.safetensors", seed=1)
    write_checkpoint(folder / "xl.safetensors", "sdxl")
    edited(folder / "b.safetensors", _train)
    edited(folder / "bad.safetensors", _spoil)
    edited(folder / "bare.safetensors", _strip, {"modelspec.title": "bare", "long": "x" * 5000})
    edited(folder / "merged.safetensors", lambda _: None, _merge_metadata())
    torch.save({"state_dict": random_tensors("sd15", 1)}, folder / "a.ckpt")
    save_file({"lora_unet_mid.lora_up.weight": torch.zeros(4, 4)}, folder / "lora.safetensors")
    (folder / "text.safetensors").write_text("no checkpoint at all, whatever it is called\n" * 10)
    return folder


def _train(tensors: dict[str, Tensor]) -> None:
    """Output blocks move, the deeper the less; all else stays."""
    generator = torch.Generator().manual_seed(9)
    for key, tensor in tensors.items():
        found = re.match(r"model\.diffusion_model\.output_blocks\.(\d+)\.", key)
        if found:
            step = torch.randn(tensor.shape, generator=generator) * 0.002 * (1 + int(found[1]))
            tensors[key] = (tensor.float() + step).half()


def _spoil(tensors: dict[str, Tensor]) -> None:
    tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"].view(-1)[:3] = math.nan
    tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"].view(-1)[3] = math.inf


def _strip(tensors: dict[str, Tensor]) -> None:
    """No VAE, a tensor of another shape, one more key, a marker, one dtype more."""
    for key in [key for key in tensors if key.startswith("first_stage_model.")]:
        del tensors[key]
    tensors["v_pred"] = torch.zeros(0)
    tensors["model.diffusion_model.input_blocks.0.0.bias"] = torch.zeros(7)
    weight = "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    tensors[weight] = tensors[weight].float()


def _merge_metadata() -> dict[str, str]:
    recipe = Recipe(
        architecture="sd15",
        parents=(Parent(letter="A", name="anime", sha256=SHA_A), Parent(letter="B", name="photo", sha256=SHA_B)),
    )
    models = {
        SHA_A: {"name": "anime", "legacy_hash": "11111111", "sd_merge_recipe": None},
        SHA_B: {"name": "photo [v2]", "legacy_hash": "22222222", "sd_merge_recipe": {"type": "webui"}},
    }
    merge = {"type": "webui", "primary_model_hash": SHA_A, "secondary_model_hash": SHA_B, "multiplier": 0.35}
    return {
        "mergetune.recipe": recipe.to_json(),
        "sd_merge_recipe": json.dumps(merge),
        "sd_merge_models": json.dumps(models),
        "mecha_recipe": MECHA,
    }


@pytest.fixture
def call(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`mergetune ARGUMENTS` in this process, in a folder with the checkpoints linked in."""
    enter(tmp_path, monkeypatch, models)
    return caller(monkeypatch, capsys)


@pytest.fixture
def told(call: Call) -> Callable[..., dict[str, Any]]:
    """What `--json` prints: JSON as the standard has it, and nothing else."""

    def run(*arguments: str) -> dict[str, Any]:
        outcome = call(*arguments, "--json")
        assert (outcome.code, outcome.err) == (0, ""), outcome
        found = json.loads(outcome.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert isinstance(found, dict)
        return found

    return run


@pytest.fixture
def refused(call: Call, tmp_path: Path) -> Callable[..., str]:
    """The one line a command is refused with; nothing is left behind."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.iterdir())
        outcome = call(*arguments)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before
        return outcome.err

    return run


# ------------------------------------------------------------------------------------------ inspect


def test_a_checkpoint_is_told_with_the_hashes_other_programs_use(
    told: Callable[..., dict[str, Any]], models: Path
) -> None:
    data = (models / "a.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    found = told("inspect", "a.safetensors")
    assert found["architecture"] == "sd15"
    assert found["prediction"]["name"] == "epsilon"
    assert found["components"] == {"present": ["unet", "text_encoder", "vae"], "missing": [], "lacking": []}
    assert found["hashes"] == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "autov2": hashlib.sha256(data).hexdigest()[:10],
        "autov3": hashlib.sha256(data[header:]).hexdigest()[:12],
        "legacy": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }
    assert found["check"] == {"finite": True, "places": []}
    assert found["recipes"] == {}


def test_places_hold_every_tensor_once(told: Callable[..., dict[str, Any]], models: Path) -> None:
    tensors = load_file(models / "bare.safetensors")
    found = told("inspect", "bare.safetensors")
    rows = {row["place"]: row for row in found["places"]}
    assert list(rows) == [place for place in places(Architecture.SD15) if place != "vae"] + ["other"]
    assert sum(row["tensors"] for row in rows.values()) == found["tensors"] == len(tensors)
    assert sum(row["parameters"] for row in rows.values()) == sum(tensor.numel() for tensor in tensors.values())
    assert sum(row["bytes"] for row in rows.values()) == sum(tensor.nbytes for tensor in tensors.values())
    inner = [value for key, value in tensors.items() if "diffusion_model.input_blocks.1." in key]
    assert rows["IN01"]["dtypes"] == {"F16": len(inner) - 1, "F32": 1}


def test_missing_parts_the_marker_and_cut_values_are_shown(call: Call) -> None:
    outcome = call("inspect", "bare.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(r"missing\s+│ vae ", outcome.out)
    assert re.search(r"prediction\s+│ v_prediction", outcome.out)
    assert "long: xxx" in outcome.out
    assert "(5,000 characters)" in outcome.out
    assert "x" * 1000 not in outcome.out


def test_nan_and_inf_are_counted_in_their_place(call: Call, told: Callable[..., dict[str, Any]]) -> None:
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    row = {"place": "M00", "nan": 3, "infinite": 1, "tensors": 1, "first_key": key}
    assert told("inspect", "bad.safetensors")["check"] == {"finite": False, "places": [row]}
    shown = " ".join(re.sub("[│\n]", " ", call("inspect", "bad.safetensors").out).split())
    assert "M00: 3 NaN and 1 Inf in 1 tensors" in shown
    assert told("inspect", "bad.safetensors", "--no-check")["check"] is None
    assert "all finite" in call("inspect", "a.safetensors").out


def test_recipes_of_all_programs_are_shown_with_models_by_name(call: Call, told: Callable[..., dict[str, Any]]) -> None:
    out = call("inspect", "merged.safetensors").out
    for line in (
        f"A = anime [{SHA_A[:10]}]",
        f"B = photo [{SHA_B[:10]}]",
        f"primary_model_hash: anime [{SHA_A[:10]}]",
        f"secondary_model_hash: photo [v2] [{SHA_B[:10]}]",
        "multiplier: 0.35",
        f"photo [v2] [{SHA_B[:10]}], itself a merge (webui)",
        '&1 model "photo.safetensors" model_config="sd1-ldm" merge_space="weight"',
        '&2 merge "weighted_sum" &0 &1 alpha=0.25',
    ):
        assert line in out
    found = told("inspect", "merged.safetensors")
    assert found["metadata"] == {"format": "pt"} | _merge_metadata()
    assert found["recipes"]["mecha_recipe"] == MECHA
    for name in ("mergetune.recipe", "sd_merge_recipe", "sd_merge_models"):
        assert found["recipes"][name] == json.loads(_merge_metadata()[name])


DAMAGED = ["", "{", "[[[", "null", "NaN", '{"a": NaN}', "[" * 100_000, "[/x]", "1", f'{{"a": {{"b": {10**400}}}}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_recipe_hides_nothing_else(text: str, call: Call, tmp_path: Path) -> None:
    names = ("mergetune.recipe", "sd_merge_recipe", "sd_merge_models", "mecha_recipe", "else")
    keys = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.text_model.x")
    save_file({key: torch.zeros(4, 4, 3, 3) for key in keys}, tmp_path / "odd.safetensors", dict.fromkeys(names, text))
    outcome = call("inspect", "odd.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert "sd15" in outcome.out
    assert call("inspect", "odd.safetensors", "--json").code == 0


def test_a_ckpt_has_no_hash_of_safetensors(told: Callable[..., dict[str, Any]], models: Path) -> None:
    found = told("inspect", "a.ckpt")
    assert found["hashes"]["autov2"] == hashlib.sha256((models / "a.ckpt").read_bytes()).hexdigest()[:10]
    assert found["hashes"]["autov3"] is None
    assert found["places"] == told("inspect", "a.safetensors")["places"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("lora.safetensors", ["lora.safetensors", "a LoRA"]),
        ("text.safetensors", ["text.safetensors", "not a .safetensors file"]),
        ("absent.safetensors", ["absent.safetensors", "no checkpoint"]),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(file: str, words: list[str], refused: Callable[..., str]) -> None:
    for arguments in (["inspect", file], ["inspect", file, "--json"], ["diff", "a.safetensors", file]):
        message = refused(*arguments)
        for word in words:
            assert word in message


# --------------------------------------------------------------------------------------------- diff


def norm(tensors: Mapping[str, Tensor], prefix: str) -> float:
    parts = [value.double().numpy().ravel() for key, value in tensors.items() if key.startswith(prefix)]
    return float(np.linalg.norm(np.concatenate(parts)))


def test_places_stand_in_depth_order_with_the_distances_of_numpy(
    told: Callable[..., dict[str, Any]], models: Path
) -> None:
    found = told("diff", "a.safetensors", "b.safetensors")
    assert [row["place"] for row in found["places"]] == list(places(Architecture.SD15))
    distances = {row["place"]: row["relative_distance"] for row in found["places"]}
    a, b = load_file(models / "a.safetensors"), load_file(models / "b.safetensors")
    moved = {key: b[key].double() - a[key].double() for key in a}
    for number in range(11):  # the last one holds the head too
        prefix = f"model.diffusion_model.output_blocks.{number}."
        assert distances[f"OUT{number:02d}"] == pytest.approx(norm(moved, prefix) / norm(a, prefix), rel=1e-12)
    assert {place for place, value in distances.items() if value == 0} == {
        place for place in distances if not place.startswith("OUT")
    }
    unet = next(row for row in found["components"] if row["component"] == "unet")
    prefix = "model.diffusion_model."
    assert unet["relative_distance"] == pytest.approx(norm(moved, prefix) / norm(a, prefix), rel=1e-12)
    assert found["most_different"] == []


def test_bars_are_drawn_against_the_largest(call: Call) -> None:
    outcome = call("diff", "a.safetensors", "b.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    lengths = {}
    for line in outcome.out.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) > 3 and cells[1] in places(Architecture.SD15):
            lengths[cells[1]] = (float(cells[2]), len(cells[3]))
    assert list(lengths) == list(places(Architecture.SD15))
    top = max(lengths.values())
    assert top[1] == max(length for _, length in lengths.values())
    for distance, length in lengths.values():
        assert length == pytest.approx(distance / top[0] * top[1], abs=1.1)
    assert {place for place, (_, length) in lengths.items() if length} == {
        block for block in blocks(Architecture.SD15) if block.startswith("OUT")
    }


def test_equal_files_are_at_no_distance(told: Callable[..., dict[str, Any]], call: Call) -> None:
    found = told("diff", "a.safetensors", "a.ckpt")
    assert {row["relative_distance"] for row in found["places"]} == {0.0}
    assert found["total"]["identical_tensors"] == found["total"]["tensors"]
    assert found["total"]["difference_cosine"] is None
    assert "█" not in call("diff", "a.safetensors", "a.ckpt").out


def test_the_most_different_tensors_are_listed_largest_first(told: Callable[..., dict[str, Any]], call: Call) -> None:
    rows = told("diff", "a.safetensors", "b.safetensors", "--tensors", "4")["most_different"]
    values = [row["relative_distance"] for row in rows]
    assert len(rows) == 4
    assert values == sorted(values, reverse=True)
    out = call("diff", "a.safetensors", "b.safetensors", "--tensors", "4").out
    assert [row["key"] for row in rows] == re.findall(r"^  \d\S+  OUT\d\d  (\S+)  ", out, flags=re.MULTILINE)


def test_what_only_one_file_has_is_named(told: Callable[..., dict[str, Any]], call: Call) -> None:
    found = told("diff", "a.safetensors", "bare.safetensors")
    assert found["only_in_b"] == ["v_pred"]
    assert all(key.startswith("first_stage_model.") for key in found["only_in_a"])
    key = "model.diffusion_model.input_blocks.0.0.bias"
    assert found["other_shapes"] == [{"key": key, "a": [32], "b": [7]}]
    out = call("diff", "a.safetensors", "bare.safetensors").out
    assert f"{len(found['only_in_a'])} tensors are only in A: first_stage_model." in out
    assert f"{key} (32 in A, 7 in B)" in out


@pytest.mark.slow
def test_a_place_that_is_not_finite_has_no_number(
    told: Callable[..., dict[str, Any]], call: Call, tmp_path: Path
) -> None:
    found = told("diff", "a.safetensors", "bad.safetensors", "--plot", "bad.png")
    assert [row["place"] for row in found["places"] if row["relative_distance"] is None] == ["M00"]
    assert found["not_finite"] == ["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    assert "1 tensors hold NaN or Inf in A or B" in call("diff", "a.safetensors", "bad.safetensors").out
    assert (tmp_path / "bad.png").exists()


def columns(path: Path) -> list[int]:
    """Heights in pixels of the coloured bars, from left to right."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    coloured = (pixels.max(axis=2) - pixels.min(axis=2) > 40).sum(axis=0)
    edges = np.flatnonzero(np.diff((coloured > 0).astype(int), prepend=0, append=0))
    return [int(np.median(coloured[left:right])) for left, right in zip(edges[::2], edges[1::2], strict=True)]


def test_a_plot_has_a_bar_for_every_place_that_moved_in_depth_order(
    told: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    found = told("diff", "a.safetensors", "b.safetensors", "--plot", "ab.png")
    expected = [row["relative_distance"] for row in found["places"] if row["relative_distance"] > 0]
    heights = columns(tmp_path / "ab.png")
    assert len(heights) == len(expected) == 12
    assert np.array(heights) / max(heights) == pytest.approx(np.array(expected) / max(expected), abs=0.02)


def test_a_plot_is_replaced_only_by_force(refused: Callable[..., str], call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("mine")
    assert "--force" in refused("diff", "a.safetensors", "b.safetensors", "--plot", "mine.png")
    assert (tmp_path / "mine.png").read_text() == "mine"
    outcome = call("diff", "a.safetensors", "b.safetensors", "--plot", "mine.png", "--force")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("wrote mine.png\n")
    assert columns(tmp_path / "mine.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.safetensors", "xl.safetensors"], ["A (a.safetensors) is sd15", "B (xl.safetensors) is sdxl"]),
        (["a.safetensors", "b.safetensors", "--plot", "b.safetensors", "--force"], [".png", "b.safetensors"]),
        (["a.safetensors", "b.safetensors", "--plot", "nowhere/x.png"], ["nowhere/x.png", "folder"]),
        (["a.safetensors", "b.safetensors", "--tensors", "-1"], ["--tensors"]),
        (["a.safetensors"], ["B"]),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(
    arguments: list[str], words: list[str], refused: Callable[..., str]
) -> None:
    message = refused("diff", *arguments)
    for word in words:
        assert word in message


@pytest.mark.slow
def test_the_program_itself_prints_the_json_alone(models: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optimizer.cli", "diff", models / "a.safetensors", models / "b.safetensors", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["architecture"] == "sd15"
