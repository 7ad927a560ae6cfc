"""Changes smaller than a step of the file's dtype: what is said about them, against the written files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_tensors
from command_line import Call, caller, enter
from safetensors.torch import load_file, save_file
from slow_cases import first_fast
from torch import Tensor

LAYER = "model.diffusion_model.middle_block.1.proj_in.weight"
MODULE = "lora_unet_mid_block_attentions_0_proj_in"
SAMPLED = re.compile(r"\(sampled: (\d+) of (\d+) changed tensors\)")
DTYPES = {
    "fp8": torch.float8_e4m3fn,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints in four dtypes; read only."""
    folder = tmp_path_factory.mktemp("files")
    for seed, letter in enumerate("ab"):
        tensors = random_tensors("sd15", seed, torch.float32)
        for name, dtype in DTYPES.items():
            cast = {key: row.to(dtype) if row.is_floating_point() else row for key, row in tensors.items()}
            save_file(cast, folder / f"{letter}-{name}.safetensors")
    return folder


@pytest.fixture
def call(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`mergetune ARGUMENTS` in this process, in a folder with the files."""
    enter(tmp_path, monkeypatch, files)
    return caller(monkeypatch, capsys)


def change_of(share: float) -> Tensor:
    """Write a LoRA whose change of the one layer it has is this share of the layer's norm; return the change."""
    weight = random_tensors("sd15", 0, torch.float32)[LAYER].flatten(1).double()
    generator = torch.Generator().manual_seed(7)
    up, down = torch.randn(128, 8, generator=generator), torch.randn(8, 128, generator=generator)
    up *= share * weight.norm() / (up.double() @ down.double()).norm()
    save_file({f"{MODULE}.lora_up.weight": up, f"{MODULE}.lora_down.weight": down}, "style.safetensors")
    return up.double() @ down.double()


def arrived(change: Tensor, before: Path, after: Path) -> float:
    """Return how much of a change is in a file: 1 if all of it."""
    got = load_file(after)[LAYER].double().flatten(1) - load_file(before)[LAYER].double().flatten(1)
    return float((got * change).sum() / change.square().sum())


class TestBake:
    @pytest.mark.parametrize(
        ("dtype", "share", "advice"),
        [
            ("fp16", 0.0001, "fp32"),
            *first_fast(0, [("fp8", 0.01, "fp16"), ("fp8", 0.03, "fp16"), ("bf16", 0.001, "fp16")]),
        ],
    )
    def test_the_share_that_is_in_the_file_is_told_with_a_dtype_that_keeps_more(
        self, call: Call, tmp_path: Path, dtype: str, share: float, advice: str
    ) -> None:
        change = change_of(share)
        done = call("lora", "bake", f"a-{dtype}.safetensors", "style.safetensors", "-o", "baked.safetensors", code=0)
        wanted = arrived(change, tmp_path / f"a-{dtype}.safetensors", tmp_path / "baked.safetensors")
        assert wanted < 0.9
        said = re.search(r"about (\d+)% of what the merge changes arrives", done.out)
        assert said is not None, done.out
        assert float(said[1]) == pytest.approx(100 * wanted, abs=0.6)
        assert SAMPLED.search(done.out)
        assert f"--dtype {advice} keeps 100%" in done.out
        better = ("--dtype", advice, "-o", "better.safetensors")
        again = call("lora", "bake", f"a-{dtype}.safetensors", "style.safetensors", *better, code=0)
        assert "what the merge changes" not in again.out
        assert arrived(change, tmp_path / f"a-{dtype}.safetensors", tmp_path / "better.safetensors") > 0.99

    @pytest.mark.parametrize(
        ("dtype", "share"),
        [
            ("fp8", 0.5),
            *first_fast(0, [("fp32", 1e-5), ("bf16", 0.02), ("fp16", 0.01)]),
        ],
    )
    def test_nothing_is_said_of_a_change_that_arrives(self, call: Call, dtype: str, share: float) -> None:
        change_of(share)
        done = call("lora", "bake", f"a-{dtype}.safetensors", "style.safetensors", "-o", "baked.safetensors", code=0)
        assert "what the merge changes" not in done.out

    @pytest.mark.slow
    def test_a_change_below_the_rounding_of_a_wider_checkpoint_is_told_as_that(self, call: Call) -> None:
        change_of(0.0001)
        arguments = ("a-fp32.safetensors", "style.safetensors", "--dtype", "bf16", "-o", "baked.safetensors")
        done = call("lora", "bake", *arguments, code=0)
        assert "below a step of bfloat16" in done.out
        assert "--dtype fp32 keeps 100%" in done.out


class TestMerge:
    @pytest.mark.parametrize(
        ("dtype", "ratio", "options", "advice"),
        [
            ("fp8", 0.99, (), "fp16"),  # nearer to B
            *first_fast(
                0,
                [
                    ("fp8", 0.01, (), "fp16"),
                    ("bf16", 0.0005, (), "fp16"),
                    ("fp16", 0.0001, (), "fp32"),
                    ("fp32", 0.0001, ("--dtype", "fp16"), "fp32"),
                ],
            ),
        ],
    )
    def test_a_ratio_that_changes_less_than_a_step_is_told(
        self, call: Call, tmp_path: Path, dtype: str, ratio: float, options: tuple[str, ...], advice: str
    ) -> None:
        parents = f"parents: [a-{dtype}.safetensors, b-{dtype}.safetensors]\n"
        (tmp_path / "recipe.yaml").write_text(f"{parents}values: {{B: {ratio}}}\n")
        done = call("merge", "recipe.yaml", "-o", "merged.safetensors", *options, code=0)
        assert "what the merge changes" in done.out
        assert f"--dtype {advice} keeps 100%" in done.out
        sampled = SAMPLED.search(done.out)
        assert sampled is not None
        assert 10 < int(sampled[1]) < int(sampled[2])

    @pytest.mark.parametrize(
        ("dtype", "ratio"),
        [
            ("bf16", 0.2),
            *first_fast(0, [("fp16", 1), ("fp8", 0.5), ("fp16", 0.01)]),
        ],
    )
    def test_nothing_is_said_of_a_merge_that_arrives(
        self, call: Call, tmp_path: Path, dtype: str, ratio: float
    ) -> None:
        parents = f"parents: [a-{dtype}.safetensors, b-{dtype}.safetensors]\n"
        (tmp_path / "recipe.yaml").write_text(f"{parents}values: {{B: {ratio}}}\n")
        done = call("merge", "recipe.yaml", "-o", "merged.safetensors", code=0)
        assert "what the merge changes" not in done.out


class TestExtract:
    @pytest.mark.slow
    @pytest.mark.parametrize("size", [2e-15, 1e-14])
    def test_factors_that_underflow_are_told_apart_from_a_rank_too_small(
        self, call: Call, tmp_path: Path, size: float
    ) -> None:
        tensors = random_tensors("sd15", 0, torch.float32)
        tensors[LAYER] = torch.zeros_like(tensors[LAYER])
        save_file(tensors, "zero.safetensors")
        generator = torch.Generator().manual_seed(0)
        factors = torch.randn(128, 2, generator=generator), torch.randn(2, 128, generator=generator)
        tensors[LAYER] = (factors[0] @ factors[1] * size).view(128, 128, 1, 1)
        save_file(tensors, "tiny.safetensors")
        extract = ("lora", "extract", "zero.safetensors", "tiny.safetensors", "--rank", "2")
        done = call(*extract, "-o", "half.safetensors", code=0)
        said = re.search(r"([\d.]+)% of the difference, counted as lost to the rank, is lost by rounding", done.out)
        assert said is not None, done.out
        assert "--dtype fp32" in done.out
        half = load_file(tmp_path / "half.safetensors")
        up, down = (half[f"{MODULE}.{name}.weight"].flatten(1).double() for name in ("lora_up", "lora_down"))
        wanted = tensors[LAYER].flatten(1).double()
        lost = float((wanted - up @ down).square().sum() / wanted.square().sum())
        assert float(said[1]) == pytest.approx(100 * lost, abs=0.1)
        done = call(*extract, "-o", "full.safetensors", "--dtype", "fp32", code=0)
        assert "by rounding" not in done.out
        assert {row.dtype for row in load_file(tmp_path / "full.safetensors").values()} == {torch.float32}


def test_the_sample_does_not_depend_on_chance(call: Call) -> None:
    change_of(0.01)
    arguments = ("lora", "bake", "a-fp8.safetensors", "style.safetensors", "-o", "baked.safetensors", "--force")
    assert len({call(*arguments, code=0).out for _ in range(2)}) == 1
    assert np.isfinite(load_file("baked.safetensors")[LAYER].float().numpy()).all()
