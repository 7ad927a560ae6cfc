"""Open a checkpoint file, tell what it is, and identify it by its content.

A checkpoint is a single .safetensors file in Stable Diffusion's own key layout (`model.diffusion_model.`,
`first_stage_model.`, `cond_stage_model.` or `conditioner.embedders.`). Tensors are read through a memory map:
opening costs nothing, and reading one tensor allocates nothing.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optimizer.errors import CheckpointError, ParentsDifferError
from search_spaces.blocks import EMA, OTHER, Architecture, architecture_of, place_of
from search_spaces.errors import UnknownArchitectureError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class Checkpoint:
    """One opened checkpoint file: its tensors by key, read through a memory map."""

    def __init__(self, path: Path, handle: Any, tensors: Mapping[str, TensorInfo], metadata: dict[str, str]) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self._handle = handle

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open and check a file's header.

        Raises:
            CheckpointError: the file is missing, not safetensors, or shorter than its header says.
        """
        if not path.exists():
            raise CheckpointError(f"no checkpoint at {path}: give the path of a .safetensors file")
        if not path.is_file():
            raise CheckpointError(f"{path} is a folder: give the path of a single .safetensors file")
        try:
            tensors, metadata = read_header(path)
            handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors ({error}): fetch it again") from error
        return cls(path, handle, tensors, metadata)

    def tensor(self, key: str) -> Tensor:
        """The stored tensor, a view of the file's pages in its own dtype and shape."""
        tensor: Tensor = self._handle.get_tensor(key)
        return tensor

    @cached_property
    def architecture(self) -> Architecture:
        """Raises CheckpointError for a file that is not an SD1.5 or SDXL checkpoint."""
        try:
            return architecture_of(self.tensors)
        except UnknownArchitectureError as error:
            raise CheckpointError(f"{self.path.name}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits; its first 10 are the AutoV2 hash of A1111 and Civitai."""
        return sha256_of(self.path)


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors in the order of their data, and the metadata, of a safetensors file.

    Raises:
        CheckpointError: not safetensors, or cut off.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= header_bytes <= file_bytes - 8:
            raise CheckpointError(
                f"{path} is not a .safetensors file (or its header is cut off): "
                "convert .ckpt files to safetensors, or fetch the file again"
            )
        try:
            header = json.loads(file.read(header_bytes))
            metadata = header.pop("__metadata__", None) or {}
            ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
            tensors = {key: TensorInfo(DTYPES[row["dtype"]], tuple(row["shape"])) for key, row in ordered}
            end = max((int(row["data_offsets"][1]) for row in header.values()), default=0)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} has a damaged safetensors header ({error!r}): fetch the file again"
            ) from error
    if file_bytes < 8 + header_bytes + end:
        raise CheckpointError(
            f"{path} is cut off: its header promises {8 + header_bytes + end:,} bytes, "
            f"the file has {file_bytes:,}; fetch it again"
        )
    return tensors, metadata


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """sha256 of a whole file as 64 hex digits; `progress` is called with the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """A1111's old model hash: sha256 of the 64 KiB at 1 MiB, 8 hex digits. Not unique, still shown by many programs."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def data_hash(path: Path) -> str:
    """sha256 of the tensor data after the header, 64 hex digits: AutoV3 of Civitai (12 digits) and kohya."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_mergeable(key: str, info: TensorInfo, architecture: Architecture) -> bool:
    """Whether a ratio applies to this tensor: integers, schedules and markers stay as parent A has them.

    `position_ids` are integers whatever they are stored as: old merges left them as floats, and averaging or casting
    those once more is how such files break.
    """
    if not info.dtype.is_floating_point or key.endswith(".position_ids"):
        return False
    return place_of(key, architecture) not in {OTHER, EMA}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDifferences:
    """Keys that some parents lack; both are sorted."""

    missing: dict[str, tuple[str, ...]]  # parent letter -> keys of A that it lacks: A's values are kept
    extra: dict[str, tuple[str, ...]]  # parent letter -> keys that A lacks: they are left out


def compare_parents(parents: Sequence[Checkpoint]) -> KeyDifferences:
    """Check that parents can be merged key by key, and name what only some of them have.

    Raises:
        ParentsDifferError: another architecture, or other shapes (the first three keys are named).
    """
    first = parents[0]
    missing: dict[str, tuple[str, ...]] = {}
    extra: dict[str, tuple[str, ...]] = {}
    for letter, parent in zip(letters(len(parents))[1:], parents[1:], strict=True):
        if parent.architecture != first.architecture:
            raise ParentsDifferError(
                f"parents of different architecture: A ({first.path.name}) is {first.architecture}, "
                f"{letter} ({parent.path.name}) is {parent.architecture}; merge models of one family only"
            )
        _require_same_shapes(first, parent, letter)
        missing[letter] = tuple(sorted(set(first.tensors) - set(parent.tensors)))
        extra[letter] = tuple(sorted(set(parent.tensors) - set(first.tensors)))
    return KeyDifferences(missing=missing, extra=extra)


def _require_same_shapes(first: Checkpoint, other: Checkpoint, letter: str) -> None:
    differing = [
        f"{key} is {_shape(info)} in A and {_shape(other.tensors[key])} in {letter}"
        for key, info in first.tensors.items()
        if key in other.tensors and other.tensors[key].shape != info.shape
    ]
    if differing:
        raise ParentsDifferError(
            f"{other.path.name} has other shapes than {first.path.name} in {len(differing)} tensors: "
            f"{'; '.join(differing[:3])}; the parents must be of the same model family"
        )


def _shape(info: TensorInfo) -> str:
    return "x".join(map(str, info.shape)) or "a number"


def letters(count: int) -> tuple[str, ...]:
    """Names of the parents in order: A, B, C ..."""
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count])


def total_bytes(infos: Iterable[TensorInfo]) -> int:
    return sum(info.nbytes for info in infos)
