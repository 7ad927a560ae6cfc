"""The merge to a file: tensor by tensor from memory-mapped parents to one .safetensors file, with little memory.

It shares plan.py and flat.py with the resident merge, so both give the same bits on the same device. files/parents.py
and ingredients.py decide which tensors the file has, and what is kept where no ratio applies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from basics.files import MAX_SAFETENSORS_HEADER_BYTES, open_to_write, replacing, sha256_of
from optimizer.errors import ExportError
from optimizer.merging.engine.flat import Scratch, merge_one
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.metadata import markers_in, shorter_histories
from optimizer.merging.engine.plan import plan_places
from optimizer.merging.files.health import is_finite
from optimizer.merging.files.parents import MARKERS
from optimizer.merging.files.sources import DTYPE_NAMES, TensorInfo
from optimizer.merging.files.targets import exists, refuse_target
from studies.recipe.recipe import DtypeName, Recipe

# modelspec's hash covers the tensor data, which follows the header: it is filled in once the data is written.
HASH_FIELD = "modelspec.hash_sha256"
HASH_BLANK = "0x" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written file."""

    path: Path
    bytes: int
    sha256: str  # of the whole file; its first 10 digits are the AutoV2 hash
    notes: tuple[str, ...] = ()  # one line for everything that was left out


def export_layout(
    ingredients: Ingredients, dtype: DtypeName | None, markers: frozenset[str] | None = None
) -> dict[str, TensorInfo]:
    """Return key -> dtype and shape of every tensor of the file, in the order of its data.

    That is A's order with wide dtypes first, so that every tensor starts at a multiple of its element size, which
    readers that map the file rely on.

    Args:
        dtype: of the weights; None keeps A's dtype of each tensor.
        markers: which of `MARKERS` the file has, those that A lacks as empty tensors; None takes A's.
    """
    layout = {
        key: TensorInfo(ingredients.saved_dtype(key, dtype), info.shape)
        for key, info in ingredients.tensors.items()
        if markers is None or key not in MARKERS - markers
    }
    layout |= {key: TensorInfo(torch.float32, (0,)) for key in sorted(markers or ()) if key not in layout}
    return dict(sorted(layout.items(), key=lambda item: -item[1].dtype.itemsize))


def merged_tensors(
    recipe: Recipe, ingredients: Ingredients, layout: Mapping[str, TensorInfo], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield (key, merged tensor on the CPU) one at a time, in the layout's order; computed on `device`.

    Raises:
        ExportError: NaN where no source has one, or infinity where all sources are finite.
        CheckpointError: a source is broken, see `Ingredients.tensor`.
    """
    ingredients = ingredients.on(device)
    scratch, plans = Scratch.on(device), plan_places(recipe)
    for key, info in layout.items():
        if key not in ingredients.tensors:  # a marker
            yield key, torch.empty(info.shape, dtype=info.dtype)
            continue
        plan = ingredients.plan(key, plans, baked=recipe.vae is not None)
        if not plan.steps and not plan.loras:
            source = ingredients.tensor(key, plan.final)
            kept = source.to(info.dtype).view(info.shape)
            if kept.dtype != source.dtype:
                _refuse_broken(key, kept, {plan.final: source}, recipe)
            yield key, kept
            continue
        sources = {name: ingredients.tensor(key, name) for name in plan.sources}
        out = torch.empty(info.shape, dtype=info.dtype, device=device)
        merge_one(plan, key, sources, out, info.dtype, scratch, ingredients.deltas(key, plan))
        _refuse_broken(key, out, sources, recipe)
        yield key, out.cpu()


def _refuse_broken(key: str, merged: Tensor, sources: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Refuse NaN or infinity that the sources do not have.

    Raises:
        ExportError: `merged` holds one.
    """
    if is_finite(merged):
        return
    merge_gives = f"the merge ({recipe.method}) gives"
    if merged.isnan().any():
        if not any(bool(tensor.isnan().any()) for tensor in sources.values()):
            raise ExportError(f"{merge_gives} NaN in {key}: change its values there, or use another method")
    elif all(map(is_finite, sources.values())):
        dtype = str(merged.dtype).removeprefix("torch.")
        wider = "save it as bf16 or fp32, " if merged.dtype == torch.float16 else ""
        raise ExportError(
            f"{merge_gives} infinity in {key}: {dtype} ends at {torch.finfo(merged.dtype).max:g}; "
            f"{wider}change its values there, or use another method"
        )


def write_merge(
    path: Path,
    recipe: Recipe,
    ingredients: Ingredients,
    metadata: Mapping[str, str],
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write the merged checkpoint to `path`, which is overwritten: see `atomic_file`.

    Args:
        metadata: of the header; `modelspec.hash_sha256` is filled in, and the markers it names are written.
        device: where the arithmetic is done; the same recipe gives the same bits on one device.
        progress: called with the bytes of every tensor written.

    Raises:
        ExportError: the disk is full, the file cannot be written, its header would be too long for any program, or the
            merge gives NaN or infinity.
        CheckpointError: a file that goes into the merge has changed since it was opened, or holds NaN or infinity.
        RecipeError: the recipe was made for other files.
    """
    ingredients.check(recipe)
    layout = export_layout(ingredients, recipe.dtype, markers_in(metadata))
    header, hash_at, notes = _fitting_header(layout, dict(metadata) | {HASH_FIELD: HASH_BLANK})
    data_digest = hashlib.sha256()
    with _as_export_error(path), open_to_write(path) as file:
        file.write(header)
        for _, tensor in merged_tensors(recipe, ingredients, layout, device):
            raw = memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            _write(file, raw, ingredients)
            data_digest.update(raw)
            if progress is not None:
                progress(raw.nbytes)
        file.seek(hash_at)
        file.write(f"0x{data_digest.hexdigest()}".encode())
        file.flush()
        os.fsync(file.fileno())
        total = file.seek(0, os.SEEK_END)
    ingredients.require_unchanged()  # otherwise the recipe's hashes would not be those of the merged files
    return Exported(path=path, bytes=total, sha256=sha256_of(path), notes=notes)


def _write(file: BinaryIO, raw: memoryview, ingredients: Ingredients) -> None:
    """Write a tensor's bytes, which may still lie in the file of a parent.

    Raises:
        CheckpointError: that file has become shorter.
    """
    try:
        file.write(raw)
    except OSError as error:
        if error.errno == errno.EFAULT:  # the system cannot read the bytes
            ingredients.require_unchanged()
        raise


def _fitting_header(
    layout: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> tuple[bytes, int, tuple[str, ...]]:
    """Return `_header` with as much merge history as programs can open, and notes of what was left out.

    Raises:
        ExportError: even without history it would be too long.
    """
    longest = None
    for shorter, note in shorter_histories(metadata):
        header, hash_at = _header(layout, shorter)
        if len(header) <= MAX_SAFETENSORS_HEADER_BYTES:  # of which the limit does not count the first 8
            return header, hash_at, () if longest is None else (f"{note}: {_too_long(longest)}",)
        longest = longest or len(header)
    raise ExportError(
        f"nothing was written: {_too_long(len(header))} even without merge history; shorten the title, or merge fewer "
        "parents"
    )


def _too_long(header_bytes: int) -> str:
    limit = f"no program opens more than {MAX_SAFETENSORS_HEADER_BYTES / 1e6:g} MB"
    return f"the file's header would have {header_bytes / 1e6:,.1f} MB, and {limit}"


def _header(layout: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """Return the file's bytes before the data, and the offset of the hash in them.

    The header begins with `{"`, as A1111's reader requires, and is padded to 8 bytes, as the format requires.
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


def refuse_sources(target: Path, sources: Mapping[str, Iterable[Path]]) -> None:
    """Refuse to overwrite a file that the merge or its renders read, which not even --force may do.

    Args:
        sources: description for the message, such as `parent A` -> its files.

    Raises:
        ExportError: the target is one of them.
    """
    for description, files in sources.items():
        if target.exists() and any(file.exists() and target.samefile(file) for file in files):
            raise ExportError(
                f"{target} is {description}, which goes into the merge or its renders: give another name with -o"
            )


@contextmanager
def atomic_file(target: Path, *, overwrite: bool, option: str = "-o") -> Iterator[Path]:
    """Yield a temporary path beside `target`, which takes that name if the block succeeds, and is removed otherwise.

    Without `overwrite`, of several that write to one name at once only the first one's file gets it.

    Args:
        option: with which the user gives the target.

    Raises:
        ExportError: as for `refuse_target`, or the file cannot be written.
    """
    refuse_target(target, overwrite=overwrite, option=option)
    with replacing(target, lambda: _as_export_error(target, option), overwrite=overwrite) as temporary:
        yield temporary


def write_file(target: Path, content: bytes, *, overwrite: bool, option: str = "-o") -> None:
    """Write a file as a whole: see `atomic_file`.

    Args:
        option: with which the user gives the target.

    Raises:
        ExportError: as for `atomic_file`.
    """
    with atomic_file(target, overwrite=overwrite, option=option) as temporary, open_to_write(temporary) as file:
        file.write(content)


@contextmanager
def _as_export_error(path: Path, option: str = "-o") -> Iterator[None]:
    """Turn an OSError inside the block into an ExportError that says what to do.

    Args:
        option: with which the user gives the path.
    """
    try:
        yield
    except FileExistsError as error:  # by now: it was not there when the work began
        raise exists(path, option) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise ExportError(
                f"the disk is full: {path.parent} has no room for the file; nothing was kept: free space, or write "
                f"elsewhere with {option}"
            ) from error
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}; give a path that can be written to with {option}"
        ) from error
