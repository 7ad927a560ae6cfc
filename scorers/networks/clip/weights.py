"""The weight files of CLIPs: opened safely, and loaded into open_clip's models, whose every key must fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict

from basics.files import sha256_of
from scorers.errors import WrongWeightsError
from scorers.networks.state_dict import first_finding
from scorers.weights.tensors import is_torchscript, load_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def load_weights(model: Any, path: Path, architecture: str) -> None:
    """Load the tensors of a file into an open_clip model; every key must fit.

    open_clip.load_checkpoint is not used, because it silently resamples position embeddings of another image size.

    Args:
        architecture: the model's name, for messages.

    Raises:
        WrongWeightsError: the file cannot be opened safely, or does not fit the model.
    """
    advice = "give its weights with `clip.pretrained`, or name the file's architecture with `clip.model`"
    load_state(model, read_state(path), str(path), expected=f"the CLIP architecture {architecture}", advice=advice)


def load_state(model: Any, state: dict[str, Tensor], source: str, *, expected: str, advice: str) -> None:
    """Load named tensors into an open_clip model; every key must fit.

    Args:
        source: their file, for messages.
        expected: the model, for messages.
        advice: what to do if they do not fit.

    Raises:
        WrongWeightsError: they do not fit the model.
    """
    state = convert_state_dict(model, state)
    if not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # [] or [1], depending on the age of the file
        if name in state and getattr(model, name, None) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WrongWeightsError(f"{source} does not fit {expected} ({first_finding(error)}): {advice}") from error


def read_state(path: Path, trusted_archives: frozenset[str] | None = None) -> dict[str, Tensor]:
    """Read the tensors of a CLIP file.

    Args:
        trusted_archives: sha256 of the TorchScript archives that may be opened, which can run code; by default
            those that OpenAI published (see `openai_digests`).

    Raises:
        WrongWeightsError: the file is an untrusted TorchScript archive, or not a file of plain tensors.
    """
    if not is_torchscript(path):
        state = load_tensors(path)
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    trusted = openai_digests() if trusted_archives is None else trusted_archives
    if sha256_of(path) not in trusted:
        raise WrongWeightsError(
            f"{path} is a TorchScript archive, which may run code, and OpenAI has not published it: "
            "convert it to .safetensors"
        )
    with warnings.catch_warnings():
        # TorchScript is deprecated, but OpenAI's files exist in no other format.
        warnings.simplefilter("ignore")
        archive = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    state = dict(archive.state_dict())
    for name in ("input_resolution", "context_length", "vocab_size"):  # numbers, not weights
        state.pop(name, None)
    return {name: tensor.float() for name, tensor in state.items()}


def openai_digests() -> frozenset[str]:
    """Return the sha256 of every CLIP archive that OpenAI published, which its URL in open_clip's table contains."""
    tags = (open_clip.get_pretrained_cfg(model, tag) for model, tag in open_clip.list_pretrained())
    urls = (tag.get("url", "") for tag in tags)
    return frozenset(url.split("/")[-2] for url in urls if "openaipublic" in url)
