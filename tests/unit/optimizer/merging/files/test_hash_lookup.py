"""Models found by their sha256 in a folder."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest

from optimizer.errors import CheckpointError
from optimizer.merging.files.hash_lookup import Candidate, candidates, find_by_sha256
from optimizer.runtime.digest_cache import DigestCache


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_models_are_found_below_a_folder_and_through_links(tmp_path: Path) -> None:
    one = write(tmp_path / "models" / "sub" / "x.safetensors", b"one")
    two = write(tmp_path / "disk" / "Y.CKPT", b"two")
    write(tmp_path / "models" / "one.txt", b"one")
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "models")
    found = find_by_sha256({one, two}, candidates(tmp_path / "models", ()))
    assert {sha256: row.path.name for sha256, row in found.items()} == {one: "x.safetensors", two: "Y.CKPT"}


def test_a_file_under_several_names_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", b"same")
    (tmp_path / "b.safetensors").hardlink_to(tmp_path / "a.safetensors")
    (tmp_path / "c.safetensors").symlink_to(tmp_path / "a.safetensors")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")
    assert len(candidates(tmp_path, ())) == 1


def test_files_of_the_wanted_name_come_first_and_nothing_is_read_after_the_last_find(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", b"other")
    wanted = write(tmp_path / "z" / "tuned.v2.safetensors", b"wanted")
    read: list[int] = []
    found = find_by_sha256(
        [wanted], candidates(tmp_path, {"tuned.v2"}), partial(DigestCache().of, progress=read.append)
    )
    assert {sha256: row.path for sha256, row in found.items()} == {wanted: tmp_path / "z" / "tuned.v2.safetensors"}
    assert sum(read) == len(b"wanted")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", b"other")
    assert find_by_sha256(["0" * 64], candidates(tmp_path, ())) == {}


def test_a_pipelines_folder_that_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "pipe" / "model_index.json", b"{broken")
    wanted = write(tmp_path / "pipe" / "vae" / "model.safetensors", b"vae")
    assert [row.path.name for row in candidates(tmp_path, ())] == ["model.safetensors"]
    assert set(find_by_sha256([wanted], candidates(tmp_path, ()))) == {wanted}
    with pytest.raises(CheckpointError):
        Candidate.of(tmp_path / "pipe")
