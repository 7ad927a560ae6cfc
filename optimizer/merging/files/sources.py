"""Sources of tensors: the tensors of one file by their stored names, read on demand.

A source does not know about models. For every tensor it has dtype and shape (`TensorInfo`), and a way to read it. What
the names mean is decided in canonical.py, by the same rules for every file format.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from basics.files import HASH_CHUNK_BYTES, MAX_SAFETENSORS_HEADER_BYTES, sha256_of
from basics.foreign import MODEL_BYTES, in_place_of_model, parse_json
from basics.messages import first_line
from basics.texts import shortened
from optimizer.errors import CheckpointError
from optimizer.merging.files.presence import require_utf8_name

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
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

GGUF_MAGIC = b"GGUF"
DIMENSIONS = 64  # torch's own limit
NAME_CHARACTERS = 120  # of a name in a message
TORCH_MAGICS = (b"PK\x03\x04", b"\x80\x02")  # a zip, and the pickle that torch wrote before 1.6


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Dtype and shape of a tensor, as the header gives them."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def fits(self, other: TensorInfo) -> bool:
        """Return whether shapes are equal up to trailing ones.

        A 1x1 convolution is a linear layer, and files store it as either.
        """
        return _without_ones(self.shape) == _without_ones(other.shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a source: its dtype and shape, and a function that reads it."""

    info: TensorInfo
    read: Callable[[], Tensor]  # returns a contiguous CPU tensor of that dtype and shape

    @classmethod
    def of(cls, tensor: Tensor) -> Stored:
        """Wrap a tensor that is in memory (or mapped) already."""
        return cls(TensorInfo(tensor.dtype, tuple(tensor.shape)), partial(_contiguous, tensor))

    def viewed_as(self, shape: tuple[int, ...], view: Callable[[Tensor], Tensor]) -> Stored:
        """Return the same values in another shape or order.

        Args:
            shape: of the result.
            view: turns the stored tensor into the result.
        """
        read = self.read
        return Stored(TensorInfo(self.info.dtype, shape), lambda: view(read()).contiguous())


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tensors of a file or folder under the names they are stored by."""

    files: tuple[Path, ...]  # all files from which the tensors are read
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was ignored or chosen, one line each


def safetensors_source(path: Path) -> Source:
    """Open a .safetensors file, memory-mapped: reading a tensor allocates nothing.

    Raises:
        CheckpointError: it is not safetensors, is damaged, or shorter than its header says.
    """
    try:
        infos, metadata = read_header(path)
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({first_line(error)}): fetch it again") from error
    tensors = {key: Stored(info, partial(handle.get_tensor, key)) for key, info in infos.items()}
    return Source(files=(path,), tensors=tensors, metadata=metadata)


def _refuse_long(path: Path, file_bytes: int, header_bytes: int) -> None:
    """Refuse a header that the format's readers do not open, though its content may be sound, and an absurd file.

    Raises:
        CheckpointError: it is longer.
    """
    if file_bytes > MODEL_BYTES:
        raise CheckpointError(f"{path} has {file_bytes:,} bytes, more than any model: fetch it again")
    if header_bytes > MAX_SAFETENSORS_HEADER_BYTES:
        raise CheckpointError(
            f"{path} has a header of {header_bytes / 1e6:,.1f} MB, and no program opens more than "
            f"{MAX_SAFETENSORS_HEADER_BYTES / 1e6:g} MB: save the model again without its merge history"
        )


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read a safetensors file's header: tensors in the order of their data, and the metadata.

    Raises:
        CheckpointError: it is not safetensors, is truncated, has tensors of an unknown dtype, or a name that is not
            UTF-8.
    """
    require_utf8_name(path)
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= header_bytes <= file_bytes - 8:
            raise CheckpointError(_not_safetensors(path, start))
        _refuse_long(path, file_bytes, header_bytes)
        try:
            header = parse_json(file.read(header_bytes).decode())
            metadata = _metadata(header.pop("__metadata__", None) or {})
            ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
            unknown = next((entry["dtype"] for _, entry in ordered if entry["dtype"] not in DTYPES), None)
            if unknown is not None:
                name = shortened(str(unknown), NAME_CHARACTERS)
                raise CheckpointError(
                    f"{path} cannot be read: it has tensors of dtype {name}, expected one of {', '.join(DTYPES)}; "
                    "use the fp16 or fp32 checkpoint it was made from"
                )
            tensors = {key: TensorInfo(DTYPES[entry["dtype"]], _shape(entry["shape"])) for key, entry in ordered}
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} has a damaged safetensors header ({_in_words(error)}): fetch the file again"
            ) from error
    if file_bytes < 8 + header_bytes + end:
        raise CheckpointError(
            f"{path} is cut off: its header promises {8 + header_bytes + end:,} bytes, "
            f"the file has {file_bytes:,}; fetch it again"
        )
    return tensors, metadata


def _in_words(error: Exception) -> str:
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{first_line(error)}"


def _shape(sides: Sequence[int]) -> tuple[int, ...]:
    """Return a tensor's shape.

    Raises:
        ValueError: it has more dimensions than any tensor, or they are not whole numbers of at least 0.
    """
    if len(sides) > DIMENSIONS or any(type(side) is not int or side < 0 for side in sides):
        raise ValueError("a tensor's shape must be a short list of whole numbers")
    return tuple(sides)


def _metadata(value: dict[str, str]) -> dict[str, str]:
    """Return the metadata, which the format requires to be an object of strings.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError("its metadata is not an object of strings")
    return value


def _not_safetensors(path: Path, start: bytes) -> str:
    """Return the message that says what a file is instead.

    Args:
        start: its first 8 bytes, which must not be a valid header length: a length may look like any of these formats.
    """
    if start.startswith(GGUF_MAGIC):
        return (
            f"{path} is a GGUF file: its weights are quantised and cannot be merged; "
            "use the .safetensors checkpoint it was made from"
        )
    if start.startswith(TORCH_MAGICS):
        return f"{path} is not a .safetensors file but was written by torch.save: rename it to end in .ckpt"
    left = in_place_of_model(path) or "is not a .safetensors file (or its header is cut off): fetch it again"
    return f"{path} {left}"


def sha256_of_model(path: Path, files: tuple[Path, ...], hashed: Callable[[Path], str] = sha256_of) -> str:
    """Compute the hash that identifies a model, 64 hex digits: the sha256 of its file, or a digest over its folder.

    A folder's is the sha256 of a text with one line `<sha256 of the file>  <its path in the folder>` for each file,
    sorted by path with `/` between names: what `sha256sum unet/... vae/... | sha256sum` prints.

    A LoRA with a configuration beside it is hashed like a folder of these two files.

    Args:
        files: of the model; only `path` for a single file.
        hashed: returns the sha256 of a file.
    """
    if files == (path,):
        return hashed(path)
    folder = path if path.is_dir() else path.parent
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    lines = "".join(f"{hashed(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def legacy_hash(path: Path) -> str:
    """Compute A1111's old model hash: 8 hex digits of the sha256 of the 64 KiB at offset 1 MiB.

    It is not unique, but many programs still show it.
    """
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def data_hash(path: Path) -> str:
    """Compute the sha256 of a .safetensors file's data after the header, 64 hex digits.

    Civitai calls its first 12 digits AutoV3; kohya's scripts store it in LoRA files.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def abbreviated(names: Sequence[str]) -> str:
    """Join the first three names for a one-line message, with ` ...` if there are more."""
    return ", ".join(shortened(name, NAME_CHARACTERS) for name in names[:3]) + (" ..." if len(names) > 3 else "")
