from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from basics.files import HASH_CHUNK_BYTES, replacing, sha256_of


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
