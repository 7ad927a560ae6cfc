"""Which checkpoints of files and folders compete, and which are refused by name before anything is rendered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file
from small_loras import write_lora

from basics.errors import MergetuneError
from optimizer.bracket.checkpoint_files import checkpoint_files
from optimizer.bracket.contestants import Contestant, contestants_of, open_checkpoints, require_alike
from optimizer.errors import BracketError, CheckpointError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.runtime.digest_cache import DigestCache


def names(*given: Path) -> list[str]:
    return [checkpoint.path.name for checkpoint in open_checkpoints(checkpoint_files(given)).checkpoints]


def contestants(*given: Path) -> tuple[Contestant, ...]:
    return contestants_of(open_checkpoints(checkpoint_files(given)).checkpoints, DigestCache())


def test_files_of_a_folder_come_by_name_and_others_in_the_order_given(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for seed, name in enumerate(["b", "a"]):
        write_checkpoint(folder / f"{name}.safetensors", seed=seed)
    first = write_checkpoint(tmp_path / "z.safetensors", seed=5)
    (folder / "readme.txt").write_text("no model")
    (folder / ".hidden.safetensors").write_text("no model")
    assert names(first, folder) == ["z.safetensors", "a.safetensors", "b.safetensors"]


def test_a_lora_in_a_folder_is_left_out_and_one_that_is_named_is_refused(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model.safetensors")
    lora = tmp_path / "style.safetensors"
    write_lora(lora, Checkpoint.open(model).tensors)
    found = open_checkpoints(checkpoint_files([tmp_path]))
    assert [each.path for each in found.checkpoints] == [model]
    assert len(found.left_out) == 1
    assert "style.safetensors" in found.left_out[0]
    with pytest.raises(CheckpointError, match=r"style\.safetensors"):
        open_checkpoints(checkpoint_files([model, lora]))


def test_a_damaged_file_in_a_folder_is_no_other_model_but_an_error(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        open_checkpoints(checkpoint_files([tmp_path]))


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BracketError, match="has no checkpoint"):
        open_checkpoints(checkpoint_files([tmp_path]))


def test_a_file_competes_once(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "link.safetensors").symlink_to(model)
    for given in ([model, model], [model, tmp_path / "link.safetensors"], [tmp_path]):
        with pytest.raises(BracketError, match="named twice"):
            open_checkpoints(checkpoint_files(given))


def test_two_files_of_one_content_are_refused(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model.safetensors")
    shutil.copy(model, tmp_path / "copy.safetensors")
    with pytest.raises(BracketError, match=r"copy\.safetensors and .*model\.safetensors hold the same"):
        contestants(tmp_path)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    for seed in range(3):
        write_checkpoint(tmp_path / f"a{seed}.safetensors", seed=seed)
    write_checkpoint(tmp_path / "large.safetensors", "sdxl")
    with pytest.raises(BracketError, match=r"large\.safetensors is sdxl, while 3 others are sd15"):
        require_alike(open_checkpoints(checkpoint_files([tmp_path])).checkpoints)


def test_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "a.safetensors")
    tensors = load_file(first)
    key = "model.diffusion_model.time_embed.0.weight"
    save_file(tensors | {key: tensors[key].repeat(2, 1)}, tmp_path / "wide.safetensors")
    with pytest.raises(MergetuneError, match=r"wide\.safetensors"):
        require_alike(open_checkpoints(checkpoint_files([tmp_path])).checkpoints)


def test_one_checkpoint_is_no_bracket(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(BracketError, match="two checkpoints or more, got 1 checkpoint"):
        checkpoint_files([model])
    with pytest.raises(BracketError, match="two checkpoints or more, got 1 checkpoint"):
        require_alike([Checkpoint.open(model)])


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for seed, folder in enumerate(["old", "new"]):
        (tmp_path / folder).mkdir()
        paths.append(write_checkpoint(tmp_path / folder / "model.safetensors", seed=seed))
    assert [each.name for each in contestants(*paths)] == ["old/model.safetensors", "new/model.safetensors"]
    assert [each.number for each in contestants(*paths)] == [1, 2]


def test_a_file_that_changes_after_it_was_hashed_is_noticed(tmp_path: Path) -> None:
    paths = [write_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    found = contestants(*paths)
    write_checkpoint(paths[1], seed=7)
    found[0].opened.require_unchanged()
    with pytest.raises(CheckpointError, match=r"1\.safetensors"):
        found[1].opened.require_unchanged()
