"""Reading checkpoints written by torch.save (.ckpt, .pt, .pth, a diffusers folder's .bin) without running their code.

Such a file is a pickle, which is a program. It is read by torch's weights-only reader, which accepts tensors and plain
containers and refuses every other name. The first files of Stable Diffusion also name classes of PyTorch Lightning,
with which they were trained; those names are replaced by a class that does nothing. Nothing that a file names is ever
imported.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from basics.foreign import (
    MODEL_BYTES,
    in_place_of_model,
    names_in_torch_file,
    opened_zip,
    require_plausible,
    torch_reason,
)
from basics.messages import counted
from optimizer.errors import CheckpointError
from optimizer.merging.files.contents import holds_tensors, other_content
from optimizer.merging.files.presence import require_utf8_name
from optimizer.merging.files.sources import DTYPE_NAMES, GGUF_MAGIC, Source, Stored, abbreviated

HARMLESS_OWNERS = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # followed by the protocol's number
# Entries in which programs save a model beside other things, the most reliable first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "generator", "params_ema", "params", "ema")
WRAPPINGS = 8  # of mappings around the tensors; real files have two
_MODULES = "torch.nn.modules."
_PARAMETERS = f"{_MODULES}container.ParameterDict"  # in which the first scripts of textual inversion saved theirs
_TORCHS_OWN = ("torch.", "collections.OrderedDict")


class _Ignored:
    """A stand-in for a Lightning class, which accepts any arguments and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Parameters:
    """A stand-in for torch's ParameterDict, which keeps the parameters and does nothing."""

    _parameters: Mapping[str, Tensor]

    def __setstate__(self, state: Any) -> None:
        self._parameters = state.get("_parameters", {}) if isinstance(state, Mapping) else {}


def torch_content(path: Path) -> Any:
    """Return what a file of torch.save holds: tensors and plain containers. A ParameterDict has `_parameters`.

    Raises:
        CheckpointError: it names code to run, is damaged or truncated, or claims more than it can hold.
    """
    require_utf8_name(path)
    _, content = _load(path)
    return content


def torch_source(path: Path, *, numbers: bool = False, wanted: str = "a checkpoint") -> Source:
    """Open a file of torch.save: the tensors of its state dict, memory-mapped where the file is a zip.

    Args:
        numbers: whether plain numbers in the state dict count as tensors of one element.
        wanted: what the file should be, for messages.

    Raises:
        CheckpointError: it names code to run, is damaged or truncated, or holds no tensors by name.
    """
    require_utf8_name(path)
    lightning_names, content = _load(path)
    notes = []
    if lightning_names:
        notes.append(f"classes of PyTorch Lightning are named in the file and ignored: {abbreviated(lightning_names)}")
    content, unwrapped = _unwrapped(path, content, wanted)
    notes += unwrapped
    if numbers:
        content = {key: _as_tensor(value) for key, value in content.items()}
    tensors = {key: _stored(path, key, value) for key, value in content.items() if _is_tensor(key, value)}
    try:
        require_plausible(sum(stored.info.nbytes for stored in tensors.values()), path)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be what it says ({error}): fetch it again") from error
    ignored = [str(key) for key, value in content.items() if not _is_tensor(key, value)]
    if ignored:
        notes.append(f"{len(ignored)} entries that are not tensors are ignored: {abbreviated(ignored)}")
    return Source(files=(path,), tensors=tensors, notes=tuple(notes))


def _as_tensor(value: object) -> object:
    """Return a number as a tensor of one element, and anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return torch.tensor(float(value) if abs(value) < 2**63 else math.inf)


def _unwrapped(path: Path, content: Any, wanted: str) -> tuple[Mapping[Any, Any], list[str]]:
    """Return the mapping that holds a model's tensors, whatever it is wrapped in, and notes.

    Args:
        wanted: what the file should be, for messages.

    Raises:
        CheckpointError: there is none, it is of another kind, such as an optimizer's state, or there are several.
    """
    notes: list[str] = []
    for _ in range(WRAPPINGS):
        other = other_content(content)
        if other is not None:
            raise CheckpointError(f"{path} holds {other}: give {wanted}")
        inner = _inner_name(path, content, wanted)
        if inner is None:
            return content, notes
        notes += _unwrapping_notes(content, inner)
        content = content[inner]
    raise CheckpointError(
        f"{path} wraps its tensors more than {WRAPPINGS} times, or contains itself: it is no checkpoint; fetch it again"
    )


def _unwrapping_notes(content: Mapping[Any, Any], inner: str) -> Iterator[str]:
    """Yield what was chosen and what is ignored beside it."""
    name = "the state dict" if inner == "state_dict" else repr(inner)
    if inner != "state_dict":
        yield f"its tensors lie in {name}"
    other_keys = [str(key) for key in content if key != inner]
    if other_keys:
        ignored = f"ignored beside {name}: {abbreviated(other_keys)}"
        yield f"{counted(len(other_keys), 'entry is', 'entries are')} {ignored}"


def _inner_name(path: Path, content: Mapping[Any, Any], wanted: str) -> str | None:
    """Return the entry in which a model's tensors lie; None if they do not lie deeper.

    Raises:
        CheckpointError: several entries hold tensors, and none has a usual name.
    """
    seen: dict[int, tuple[int, bool]] = {}
    holders = [key for key, value in content.items() if isinstance(key, str) and holds_tensors(value, seen)]
    usual = next((key for key in WRAPPERS if key in holders), None)
    if usual is not None or not holders or any(map(_is_tensor, content, content.values())):
        return usual
    if len(holders) > 1:
        raise CheckpointError(
            f"{path} holds tensors in several entries ({abbreviated(holders)}), and it is not known in which the model "
            f"is: give {wanted}"
        )
    return holders[0]


def _is_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _stored(path: Path, key: str, tensor: Tensor) -> Stored:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.dtype not in DTYPE_NAMES:
        raise CheckpointError(
            f"{path}: {key} is stored as {tensor.dtype}, {tensor.layout}, on {tensor.device}: "
            "only plain tensors of floats or integers can be merged"
        )
    return Stored.of(tensor.detach())


def _load(path: Path) -> tuple[list[str], Any]:
    """Return the names of Lightning's classes that were replaced, and the file's content.

    Raises:
        CheckpointError: the file is of another format, names code to run, is damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file_bytes = file.seek(0, io.SEEK_END)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions and its disk"
        ) from error
    if file_bytes > MODEL_BYTES:
        raise CheckpointError(f"{path} has {file_bytes:,} bytes, more than any model: fetch it again")
    zipped = start == ZIP_MAGIC
    if start == GGUF_MAGIC:
        raise CheckpointError(
            f"{path} is a GGUF file: its weights are quantised and cannot be merged; "
            "use the .safetensors checkpoint it was made from"
        )
    if not zipped and start[:1] != PICKLE_MAGIC:
        left = in_place_of_model(path) or (
            "is not a file of torch.save (or its start is damaged): fetch it again; a safetensors file must be named "
            ".safetensors"
        )
        raise CheckpointError(f"{path} {left}")
    names: list[str] = []
    try:
        names = names_in_torch_file(path, zipped=zipped)
        harmless = [name for name in names if name.startswith(HARMLESS_OWNERS)]
        stand_ins = [_stand_in(name) for name in (*harmless, *({_PARAMETERS} & {*names}))]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # torch warns of what is refused with a message below
            return harmless, torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipped and _can_be_mapped(path)
            )
    except Exception as error:  # a foreign pickle can fail in any way
        raise CheckpointError(_explanation(path, names, error)) from error


def _can_be_mapped(path: Path) -> bool:
    """Return whether a zip stores its tensors uncompressed; mapped, those of a recompressed zip would be noise."""
    if not zipfile.is_zipfile(path):
        return False
    with opened_zip(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _stand_in(name: str) -> Any:
    """Return (class, the name it replaces) for torch's reader.

    The reader fills only containers that are exactly of its own types, so Lightning's dictionaries become OrderedDict.
    """
    if name == _PARAMETERS:
        return _Parameters, name
    return (OrderedDict if name.endswith("Dict") else _Ignored), name


def _explanation(path: Path, names: list[str], error: Exception) -> str:
    """Return the message for a file that cannot be read.

    Args:
        names: the classes and functions that the file names.
    """
    suspects = [name for name in names if not name.startswith((*HARMLESS_OWNERS, *_TORCHS_OWN))]
    refused = re.search(r"GLOBAL (\S+)", str(error))
    code = abbreviated(suspects)
    if refused:  # torch names a builtin without its module
        code = next((name for name in suspects if name.endswith(f".{refused[1]}")), refused[1])
    if code and isinstance(error, pickle.UnpicklingError):
        is_module = any(name.startswith(_MODULES) for name in names)
        advice = "a whole module was saved instead of its weights: save its state_dict(), or " if is_module else ""
        return (
            f"{path} holds executable code (it names {code}) and is refused: nothing in it was run; {advice}"
            "use a .safetensors file of this model"
        )
    return f"{path} is damaged or cut off ({torch_reason(error)}): fetch it again"
