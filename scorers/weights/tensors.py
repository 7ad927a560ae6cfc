"""Opening weight files: never in a way that could run code. torch is imported late, because fast commands come here."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from basics.foreign import in_place_of_model, names_in_torch_file, opened_zip, torch_reason
from basics.messages import counted
from scorers.errors import WrongWeightsError

if TYPE_CHECKING:
    from torch import Tensor


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the format in which OpenAI published CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with opened_zip(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # `load_tensors` says what is wrong with it
        return False


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load the named tensors of a .safetensors file, or of a torch file with weights_only=True, onto the CPU.

    A mapping {"state_dict": ...} is unwrapped.

    Raises:
        WrongWeightsError: the file is damaged, or does not hold a flat mapping of names to tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (left := in_place_of_model(path)) is not None:
        raise WrongWeightsError(f"{path} {left}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        names_in_torch_file(path, zipped=zipfile.is_zipfile(path))  # bounds what it may cost
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        zipfile.BadZipFile,
    ) as error:
        reason = torch_reason(error)
        if "GLOBAL torch.nn.modules." in str(error):
            reason = "a whole module was saved instead of its state_dict()"
        raise WrongWeightsError(
            f"{path} cannot be opened as a file of plain tensors ({reason}): give another file"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    named = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not named or not content:
        raise WrongWeightsError(f"{path}: expected named tensors, got {_describe(content)}: give another file")
    return dict(content)


def _describe(content: object) -> str:
    if isinstance(content, dict) and not content:
        return "an empty mapping"
    if isinstance(content, dict) and {"state", "param_groups"} <= content.keys():
        return "the state of an optimizer, from which training goes on"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {counted(len(content), 'element')} without names"
    if isinstance(content, dict):
        others = sorted({type(value).__name__ for value in content.values()} - {"Tensor"})
        return f"a mapping with {', '.join(others)}"
    return f"a {type(content).__name__}"
