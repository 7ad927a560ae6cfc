"""The files of a LoRA: its tensors, and the configuration that PEFT keeps beside them.

PEFT writes an adapter's alpha into `adapter_config.json` and not into the file of its tensors, so both together are the
LoRA: a change of either is another LoRA.
"""

from __future__ import annotations

import struct
import zipfile
from contextlib import suppress
from pathlib import Path

from basics.files import MAX_SAFETENSORS_HEADER_BYTES
from basics.foreign import PICKLE_BYTES, opened_zip, parse_json

CONFIGURATION = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT's own names for the file of the tensors
PEFT_FACTOR = ".lora_A."  # in the names of PEFT's tensors


def files_of_lora(path: Path) -> tuple[Path, ...]:
    """Return the file itself, and PEFT's configuration beside it if that belongs to it.

    It belongs to the file with PEFT's own name for an adapter, or, where the folder has none, to every file whose
    tensors are named as PEFT names them.
    """
    configuration = path.with_name(CONFIGURATION)
    if not configuration.is_file() or not path.is_file():
        return (path,)
    adapters = [name for name in ADAPTERS if path.with_name(name).is_file()]
    belongs = (not adapters or path.name in adapters) and _is_named_by_peft(path)
    return (path, configuration) if belongs else (path,)


def _is_named_by_peft(path: Path) -> bool:
    """Return whether a file of safetensors or torch.save has tensors with PEFT's names; False if it cannot be read."""
    with suppress(OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            return _is_in_pickle(path)
        with path.open("rb") as file:
            start = file.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            header = parse_json(file.read(size).decode()) if 2 <= size <= MAX_SAFETENSORS_HEADER_BYTES else {}
        return any(PEFT_FACTOR in key for key in header)
    return False


def _is_in_pickle(path: Path) -> bool:
    """Return whether a file of torch.save names such tensors; the pickle is searched and never run."""
    with opened_zip(path) as archive:
        return any(
            PEFT_FACTOR.encode() in archive.read(entry)
            for entry in archive.infolist()
            if entry.filename.endswith("data.pkl") and entry.file_size <= PICKLE_BYTES
        )
