"""Heads of linear layers on an image embedding, without activations between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F

from scorers.errors import WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Affine(NamedTuple):
    """A linear layer: x -> x @ weight.T + bias."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]


def keys_of(prefixes: Sequence[str]) -> set[str]:
    """Return the keys of the layers with these prefixes."""
    return {f"{prefix}{part}" for prefix in prefixes for part in ("weight", "bias")}


def read_layers(
    state: Mapping[str, Tensor], prefixes: Sequence[str], widths: Sequence[int], source: str
) -> tuple[Affine, ...]:
    """Read linear layers from named tensors, as float64.

    Args:
        state: key -> tensor; it has the keys of all prefixes.
        prefixes: of each layer's keys.
        widths: of each layer's output; the first layer takes embeddings of any width.
        source: the file, for messages.

    Raises:
        WrongWeightsError: the shapes are others.
    """
    layers = tuple(Affine(state[f"{p}weight"].double(), state[f"{p}bias"].double()) for p in prefixes)
    expected = [(out, into) for out, into in zip(widths, (input_width(layers), *widths[:-1]), strict=True)]
    shapes = [tuple(layer.weight.shape) for layer in layers]
    if shapes != expected or any(layer.bias.shape != layer.weight.shape[:1] for layer in layers):
        raise WrongWeightsError(
            f"{source}: expected linear layers {expected}, got {shapes}: give another file with option 'head'"
        )
    return layers


def wrong_keys(state: Mapping[str, Tensor], expected: str, source: str) -> WrongWeightsError:
    """Make the error of a file that holds other keys than those of a head.

    Args:
        expected: "a LAION aesthetic head: expected keys ...", for the message.
    """
    names = ", ".join(sorted(state)[:4]) + (", ..." if len(state) > 4 else "")
    return WrongWeightsError(f"{source} is not {expected}, got {names or 'none'}: give another file with option 'head'")


def input_width(layers: tuple[Affine, ...]) -> int:
    """Return the width of the embeddings that a head takes."""
    return int(layers[0].weight.shape[-1])


def apply_head(embeddings: Tensor, layers: tuple[Affine, ...]) -> Tensor:
    """Apply a head whose last layer has one output to embeddings [n, width]: float64 [n]."""
    values = embeddings.double()
    for layer in layers:
        values = F.linear(values, layer.weight, layer.bias)
    return values.squeeze(-1)
