from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from basics.files import HASH_CHUNK_BYTES, replacing, sha256_of
from optimizer.observe.event_log import event_log
from optimizer.observe.events import StopAsked
from scorers.distances.references import write_cache
from studies.files.artifacts import Artifacts, RenderFile
from studies.records.database import open_database


@pytest.mark.parametrize("size", [0, 1, HASH_CHUNK_BYTES, HASH_CHUNK_BYTES + 1])
def test_the_hash_is_that_of_the_whole_file_and_every_chunk_is_reported(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path = tmp_path / "file"
    path.write_bytes(content)
    chunks: list[int] = []
    assert sha256_of(path, chunks.append) == hashlib.sha256(content).hexdigest()
    assert sum(chunks) == size


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("before")
    with replacing(target) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_left_and_nothing_changes_where_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("before")
    with pytest.raises(UnicodeEncodeError), replacing(target) as temporary:
        temporary.write_text("half \udc80", encoding="utf-8")
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_two_that_write_at_once_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with replacing(target) as first, replacing(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first", "the block that ends last wins"


def test_a_file_that_cannot_take_its_place_is_explained_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RuntimeError("a folder is in the way") from error

    with pytest.raises(RuntimeError, match="in the way"), replacing(target, explained) as temporary:
        temporary.write_text("content")
    assert list(tmp_path.iterdir()) == [target]


# ------------------------------------------------------------------------------------- permissions


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o027], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):03o}"


def by_tempfile(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    Path(name).replace(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file({"x": torch.zeros(2)}, path),
    "tempfile": by_tempfile,
    "torch": lambda path: torch.save({}, path),
    "pillow": lambda path: Image.new("RGB", (2, 2)).save(path, format="PNG"),
    "text": lambda path: path.write_text("study: x"),
}


@pytest.mark.parametrize("before", [None, 0o600, 0o666])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_has_the_permissions_of_a_new_one_whoever_wrote_it_and_whatever_it_replaces(
    writer: str, before: int | None, umask: int, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    if before is not None:
        target.touch()
        target.chmod(before)
    with replacing(target) as temporary:
        WRITERS[writer](temporary)
    assert permissions(target) == f"{0o666 & ~umask:03o}"


def write_database(folder: Path) -> None:
    open_database(f"sqlite:///{folder}/study.db").close()


def write_artifacts(folder: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{folder}/study.db")
    artifacts.save_contact_sheet("study", "0" * 32, "best", Image.new("RGB", (2, 2)))
    files = artifacts.of_trial("key", 0, "worker")
    files.save_sheet(Image.new("RGB", (2, 2)))
    files.save_renders([RenderFile(file="0.png", pixels=np.zeros((3, 2, 2), np.uint8))])
    artifacts.save_report("study", "0" * 32, "a page")
    files.save_features({"fid": np.zeros((2, 2))})


def write_log(folder: Path) -> None:
    with event_log(str(folder / "log.jsonl")) as log:
        log.report(StopAsked(by="signal"))


@pytest.mark.parametrize(
    "write",
    [
        write_database,
        write_artifacts,
        write_log,
        lambda folder: write_cache(folder / "cache.safetensors", torch.zeros(2, 3)),
    ],
)
def test_every_kind_of_file_has_the_permissions_that_the_umask_gives(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    write(tmp_path)
    found = {file.name: permissions(file) for file in tmp_path.rglob("*") if file.is_file()}
    assert found
    assert set(found.values()) == {f"{0o666 & ~umask:03o}"}, found
