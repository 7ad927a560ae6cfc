"""The merge to a file: tensor by tensor from memory-mapped parents to one .safetensors, with little memory.

Shares methods.py with the resident merge, so both give the same bits on the same device. The file has parent A's keys,
minus EMA copies; what only other parents have is left out, and what no ratio applies to is A's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import ExportError
from optimizer.merging.checkpoint import DTYPE_NAMES, Checkpoint, TensorInfo, is_mergeable, sha256_of
from optimizer.merging.methods import Scratch, merge_flat
from optimizer.merging.resident import EXPORT_DTYPES
from search_spaces.blocks import EMA, place_of
from studies.recipe import Recipe

# modelspec's hash covers the tensor data, which is known only after it is written; the header comes first.
HASH_FIELD = "modelspec.hash_sha256"
HASH_BLANK = "0x" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written file."""

    path: Path
    bytes: int
    sha256: str  # of the whole file; its first 10 digits are the AutoV2 hash


def export_layout(parent: Checkpoint, recipe: Recipe) -> dict[str, TensorInfo]:
    """What the file will hold: A's keys in the recipe's dtype, in A's order but wide dtypes first.

    So every tensor starts at a multiple of its element size, which readers that map the file rely on.
    """
    layout = {}
    for key, info in parent.tensors.items():
        if place_of(key, parent.architecture) == EMA:
            continue
        recast = recipe.dtype is not None and is_mergeable(key, info, parent.architecture)
        layout[key] = TensorInfo(EXPORT_DTYPES[recipe.dtype] if recast and recipe.dtype else info.dtype, info.shape)
    return dict(sorted(layout.items(), key=lambda row: -row[1].dtype.itemsize))


def merged_tensors(
    recipe: Recipe, parents: Sequence[Checkpoint], layout: Mapping[str, TensorInfo]
) -> Iterator[tuple[str, Tensor]]:
    """(key, merged tensor on the CPU) one at a time, in the layout's order."""
    scratch, ratios, first = Scratch.on("cpu"), recipe.by_place, parents[0]
    for key, info in layout.items():
        stored = [parent.tensor(key).flatten() for parent in parents if key in parent.tensors]
        shared = len(stored) == len(parents) and is_mergeable(key, first.tensors[key], first.architecture)
        if not shared:
            yield key, stored[0].to(info.dtype).view(info.shape)
            continue
        out = torch.empty(info.size, dtype=info.dtype)
        place = place_of(key, first.architecture)
        merge_flat(recipe.method, stored, ratios[place], out, info.dtype, scratch)
        yield key, out.view(info.shape)


def write_merge(
    path: Path,
    recipe: Recipe,
    parents: Sequence[Checkpoint],
    metadata: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write the merged checkpoint to `path`, which must not be anyone's file: see `atomic_file`.

    Args:
        metadata: stored in the header; `modelspec.hash_sha256` is filled in.
        progress: called with the bytes of every tensor written.

    Raises:
        ExportError: the disk is full, or the file cannot be written.
    """
    layout = export_layout(parents[0], recipe)
    header, hash_at = _header(layout, dict(metadata) | {HASH_FIELD: HASH_BLANK})
    data_digest = hashlib.sha256()
    with _explained(path), path.open("wb") as file:
        file.write(header)
        for _, tensor in merged_tensors(recipe, parents, layout):
            raw = memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            file.write(raw)
            data_digest.update(raw)
            if progress is not None:
                progress(raw.nbytes)
        file.seek(hash_at)
        file.write(f"0x{data_digest.hexdigest()}".encode())
        file.flush()
        os.fsync(file.fileno())
        total = file.seek(0, os.SEEK_END)
    return Exported(path=path, bytes=total, sha256=sha256_of(path))


def _header(layout: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """The file's bytes before the data, and where the hash stands in them.

    The header begins with `{"` and is padded to 8 bytes, which A1111's reader and the format want.
    """
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for key, info in layout.items():
        table[key] = {
            "dtype": DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, start + info.nbytes],
        }
        start += info.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, header.index(f'"{HASH_FIELD}":"{HASH_BLANK}"'.encode()) + len(f'"{HASH_FIELD}":"')


@contextmanager
def atomic_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary file beside `target` that becomes it when the block ends well, and vanishes otherwise.

    Raises:
        ExportError: `target` exists and may not be replaced, or its folder does not exist.
    """
    if target.exists() and not overwrite:
        raise ExportError(f"{target} exists: give another name with -o, or --force to replace it")
    if target.is_dir() or not target.parent.is_dir():
        raise ExportError(f"cannot write {target}: give the path of a file in a folder that exists")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        with _explained(target):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise ExportError(f"the disk is full: {path.parent} has no room for the file; nothing was kept") from error
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error
