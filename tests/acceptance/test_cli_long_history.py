"""Merge histories that would make a header longer than any program opens."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from command_line import Call
from safetensors import safe_open
from safetensors.torch import save_file

LIMIT = 100_000_000  # bytes of a header: MAX_HEADER_SIZE in the safetensors library


def models(megabytes: float, prefix: str) -> dict[str, str]:
    """Return the history of a model that descends from many."""
    text = "x" * 100_000
    return {
        "sd_merge_models": json.dumps({f"{prefix}{number}": {"name": text} for number in range(int(megabytes * 10))})
    }


def own_recipe(megabytes: float) -> dict[str, str]:
    """Return the history of a model that was itself merged by a long recipe."""
    return {"sd_merge_recipe": json.dumps({"type": "other", "text": "x" * int(megabytes * 1e6)})}


def write(path: Path, seed: int, history: dict[str, str] | None = None) -> None:
    save_file(random_tensors("sd15", seed), path, {"format": "pt", **(history or {})})


def write_style(path: Path) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    factors = {"lora_up": torch.ones(128, 1), "lora_down": torch.ones(1, 128)}
    save_file({f"{module}.{name}.weight": factor for name, factor in factors.items()}, path)


def header_bytes(path: Path) -> int:
    size: int = struct.unpack("<Q", path.read_bytes()[:8])[0]
    return size


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


class TestTooLong:
    @pytest.mark.parametrize(
        "history",
        [
            lambda letter: models(52, letter),
            pytest.param(lambda _: own_recipe(52), marks=pytest.mark.slow),
        ],
        ids=["models of two parents", "recipes of two parents"],
    )
    def test_a_merge_is_written_with_a_shorter_history_and_says_so(
        self, call: Call, tmp_path: Path, history: Callable[[str], dict[str, str]]
    ) -> None:
        for seed, letter in enumerate("ab"):
            write(tmp_path / f"{seed}.safetensors", seed, history(letter))
        (tmp_path / "recipe.yaml").write_text("parents: [0.safetensors, 1.safetensors]\nvalues: {B: 0.5}\n")
        done = call("merge", "recipe.yaml", "-o", "merged.safetensors", code=0)
        assert "left out of the merge history: the file's header would have 104" in done.out
        assert header_bytes(tmp_path / "merged.safetensors") <= LIMIT
        stored = metadata(tmp_path / "merged.safetensors")  # which refuses longer headers
        records = json.loads(stored["sd_merge_models"])
        assert [record["name"] for record in records.values()] == ["0", "1"]
        assert all(record["sd_merge_recipe"] is None for record in records.values())
        assert "left out" in stored["mergetune.history"]

    @pytest.mark.slow
    def test_a_baked_lora_does_not_take_the_header_over_the_limit(self, call: Call, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        write(path, 0)
        room = LIMIT - header_bytes(path) - 200
        write(path, 0, {"sd_merge_models": json.dumps({"a": {"name": "x" * (room - 100)}})})
        assert LIMIT - 1000 < header_bytes(path) <= LIMIT
        write_style(tmp_path / "style.safetensors")
        done = call("lora", "bake", "a.safetensors", "style.safetensors", "-o", "baked.safetensors", code=0)
        assert "the models behind the parents are left out of the merge history" in done.out
        records = json.loads(metadata(tmp_path / "baked.safetensors")["sd_merge_models"])
        assert [record["name"] for record in records.values()] == ["a"]


def test_a_history_that_fits_is_kept_whole(call: Call, tmp_path: Path) -> None:
    for seed, prefix in enumerate("ab"):
        write(tmp_path / f"{seed}.safetensors", seed, models(1, prefix))
    (tmp_path / "recipe.yaml").write_text("parents: [0.safetensors, 1.safetensors]\nvalues: {B: 0.5}\n")
    done = call("merge", "recipe.yaml", "-o", "merged.safetensors", code=0)
    assert "left out" not in done.out
    stored = metadata(tmp_path / "merged.safetensors")
    assert len(json.loads(stored["sd_merge_models"])) == 22
    assert "mergetune.history" not in stored


def test_a_file_that_was_written_with_a_longer_header_is_called_that(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", 0)
    whole = (tmp_path / "a.safetensors").read_bytes()
    size = header_bytes(tmp_path / "a.safetensors")
    long = whole[8 : 8 + size] + b" " * LIMIT
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(long)) + long + whole[8 + size :])
    failed = call("inspect", "a.safetensors", code=2)
    assert "no program opens more than 100 MB" in failed.err
