"""The .safetensors file of a personal head: a linear layer on CLIP embeddings, and what it was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from basics.files import replace_file
from scorers.aesthetics.heads import Affine, keys_of, read_layers, wrong_keys
from scorers.errors import WrongWeightsError
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from pathlib import Path

PREFIX: Final = "mergetune.personal."  # of our keys in the file's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a head was trained on, as the metadata of its file says it: texts."""

    clip: str  # the CLIP's name, for people
    clip_digest: str  # of its architecture, weights and preprocessing
    votes: str
    people: str
    agreement: str  # with held-out votes: "0.71 (0.62 to 0.79)"
    trained_on: str  # the day, in ISO 8601


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalHead:
    """A linear layer from L2-normalised CLIP embeddings [n, d] to scores in log-odds [n]."""

    layer: Affine  # float64, weight [1, d] and bias [1]
    training: Training


def write_head(path: Path, head: PersonalHead) -> None:
    """Write a head as a whole file.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in head.layer._asdict().items()}
    texts = {PREFIX + name: text for name, text in asdict(head.training).items()}
    replace_file(path, save(tensors, {"format": "pt", **texts}))


def read_head(path: Path) -> PersonalHead:
    """Read a head.

    Raises:
        WrongWeightsError: the file is damaged, or not a personal head.
    """
    state = load_tensors(path)
    expected = "a personal head: expected keys weight and bias, as `mergetune study train-personal` writes them"
    if state.keys() != keys_of(("",)):
        raise wrong_keys(state, expected, str(path))
    (layer,) = read_layers(state, ("",), (1,), str(path))
    return PersonalHead(layer=layer, training=_training(path))


def _training(path: Path) -> Training:
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
    except SafetensorError:  # the tensors were in a file of torch.save
        texts = {}
    try:
        return Training(**{name: texts[PREFIX + name] for name in Training.__dataclass_fields__})
    except KeyError as error:
        raise WrongWeightsError(
            f"{path} does not say which CLIP it was trained on: expected a file of `mergetune study train-personal`, "
            "give another with option 'head'"
        ) from error
