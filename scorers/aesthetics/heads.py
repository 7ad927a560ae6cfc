"""Heads of linear layers on an image embedding, without activations between them, and the scorers that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F

from basics.files import sha256_of
from scorers.errors import WrongWeightsError
from scorers.networks.clip.embedder import shared_embedder
from scorers.weights.fetch import resolve
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from scorers.aesthetics.kinds import AestheticSettings, AestheticV25Settings
    from scorers.networks.clip.embedder import ClipEmbedder
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages
    from scorers.weights.public import PublicFile


class Affine(NamedTuple):
    """A linear layer: x -> x @ weight.T + bias."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]


class HeadScorer:
    """A scorer by a head on the image embeddings of a CLIP. The head is tiny and stays on the CPU.

    Args:
        source: the head's file, for messages.
        model: the CLIP in messages: "CLIP" or "SigLIP".

    Raises:
        WrongWeightsError: the head takes embeddings of another width.
    """

    def __init__(
        self, info: ScorerInfo, embedder: ClipEmbedder, layers: tuple[Affine, ...], *, source: str, model: str
    ) -> None:
        if input_width(layers) != embedder.width:
            raise WrongWeightsError(
                f"{source} is a head for {model} embeddings of width {input_width(layers)}, this {model} gives "
                f"{embedder.width}: use the {model} that the head was trained on"
            )
        self.info = info
        self._embedder = embedder
        self._layers = layers

    def score(self, images: SuiteImages) -> Tensor:
        """Return the score of each image, float64 [n]."""
        return apply_head(self._embedder.embed_images(images), self._layers)


def build_head_scorer(
    info: ScorerInfo,
    settings: AestheticSettings | AestheticV25Settings,
    context: BuildContext,
    *,
    public: PublicFile,
    read: Callable[[Mapping[str, Tensor], str], tuple[Affine, ...]],
    require_its_model: Callable[[], None],
    model: str,
) -> HeadScorer:
    """Build a scorer; its head is the public file unless the settings name another.

    Args:
        public: the published head.
        read: named tensors, their file -> the head's layers.
        require_its_model: refuses a model that the published head was not trained on.
        model: as for `HeadScorer`.

    Raises:
        ScorerSettingsError: by `require_its_model`.
        MissingWeightsError: the head or the model is missing and cannot be downloaded.
        WrongWeightsError: the head or the model is not what it should be, or the two do not fit.
    """
    if settings.head is None:
        require_its_model()
    # The head comes first: it is small, and if it is missing, nobody should wait for the model.
    path = resolve(settings.head, public, context.cache_dir)
    if settings.head is not None and sha256_of(path) == public.sha256:
        require_its_model()
    layers = read(load_tensors(path), str(path))
    return HeadScorer(info, shared_embedder(settings.clip, context), layers, source=str(path), model=model)


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
